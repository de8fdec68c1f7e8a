from __future__ import annotations

import numpy as np
import pytest

from minidl.data.datasets import load_dataset
from minidl.data.splits import split
from minidl.data.tables import codes, numbers, read_csv
from minidl.errors import DataError

TABLE = """\
"age", city ,income,kind
31,Rome,1e3,yes
,"Paris, Texas",NA,no
?,Rome,-2.5,yes

52,null, 7 ,no
"""


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return str(path)

    return write


def test_columns_hold_numbers_or_codes_and_gaps(write):
    columns = read_csv(write(TABLE, "utf-8-sig"))
    assert list(columns) == ["age", "city", "income", "kind"]
    assert np.array_equal(columns["age"].values, [31, np.nan, np.nan, 52], equal_nan=True)
    assert columns["age"].labels == ()
    assert columns["city"].labels == ("Paris, Texas", "Rome")
    assert np.array_equal(columns["city"].values, [1, 0, 1, np.nan], equal_nan=True)
    assert np.array_equal(columns["income"].values, [1000, np.nan, -2.5, 7], equal_nan=True)
    assert all(column.values.dtype == np.float64 for column in columns.values())


def test_another_delimiter(write):
    columns = read_csv(write("a;b\n1,5;2\n"), delimiter=";")
    assert columns["a"].labels == ("1,5",)
    assert columns["b"].values.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ":1: the first line must name every column"),
        ("a,a\n1,2\n", ":1: the first line must name"),
        ("a,\n1,2\n", ":1: the first line must name"),
        ("a,b\n", ": holds no row"),
        ("a,b\n1,2\n\n1,2,3\n", ":4: 3 cells, but 2 columns"),
        ('a,b\n1,"2\n', ":2: unexpected end"),
        (b"a,b\n\xff,2\n", ": is not UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(write, text, reason):
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value).startswith(path + reason)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"^delimiter must"):
        read_csv(tmp_path / "none.csv", delimiter="ab")


def test_cells_of_new_rows_are_read_alike():
    assert np.array_equal(numbers([1, "2", None, " NaN ", np.nan]), [1, 2] + [np.nan] * 3, True)
    assert np.array_equal(codes(["b", "c", None, " a"], ("a", "b")), [1, np.nan, np.nan, 0], True)
    with pytest.raises(ValueError, match="'x'"):
        numbers(["x"])


def test_a_table_becomes_a_data_set(write):
    path = write(TABLE)
    data = load_dataset("csv", path=path, target="kind")
    assert data.classes == ("no", "yes") and data.y.tolist() == [1, 0, 1, 0]
    assert data.feature_names == ("age", "city", "income")
    assert data.categories == ((), ("Paris, Texas", "Rome"), ())
    assert data.X.shape == (4, 3) and data.path == path
    train, _, test = split(data, validation=0, test=0.5, rng=np.random.default_rng(0))
    assert np.isnan(np.concatenate([train.X, test.X])).sum() == 4


def test_the_task_is_told_from_the_target_or_given(write):
    path = write("x,n,m,r\n" + "".join(f"1,{i % 3},{i},{i / 7}\n" for i in range(30)))

    def made(target, **options):
        return load_dataset("csv", path=path, target=target, **options)

    assert made("n").classes == (0, 1, 2) and made("n").y[:4].tolist() == [0, 1, 2, 0]
    assert made("m").classes is None and made("r").classes is None
    assert made("n", task="regression").y.dtype == np.float64
    assert len(made("m", task="classification").classes) == 30


def test_a_target_that_cannot_be_learnt_is_refused(write):
    path = write(TABLE)
    for target, reason in [
        ("wage", "has no column 'wage'"),
        ("income", "target 'income' is missing in row 2"),
    ]:
        with pytest.raises(DataError, match=reason):
            load_dataset("csv", path=path, target=target)
    with pytest.raises(DataError, match="holds labels, such as 'no'"):
        load_dataset("csv", path=path, target="kind", task="regression")
    with pytest.raises(DataError, match="nothing but the target"):
        load_dataset("csv", path=write("a\n1\n"), target="a")
    infinite = load_dataset("csv", path=write("a,b\ninf,0\n1,1\n2,1\n"), target="b")
    with pytest.raises(DataError, match="X holds inf at row 0, column 0"):
        split(infinite, validation=0, test=0.5, rng=np.random.default_rng(0))
