"""The target column becomes class numbers or numbers, and the file a data set."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.config import parse
from minidl.data.datasets import load_dataset
from minidl.data.splits import split
from minidl.errors import DataError

TABLE = """\
age,city,income,kind
31,Rome,1e3,yes
,"Paris, Texas",NA,no
?,Rome,-2.5,yes

52,null, 7 ,no
"""


@pytest.fixture
def load(tmp_path):
    def load(text, target, name="table.csv", **options):
        (tmp_path / name).write_text(text)
        return load_dataset("csv", path=str(tmp_path / name), target=target, **options)

    return load


def test_a_table_becomes_a_data_set(load, tmp_path):
    data = load(TABLE, "kind")
    assert data.classes == ("no", "yes") and data.y.tolist() == [1, 0, 1, 0]
    assert data.feature_names == ("age", "city", "income")
    assert data.categories == ((), ("Paris, Texas", "Rome"), ())
    assert data.X.shape == (4, 3) and data.path == str(tmp_path / "table.csv")
    assert data.needs_encoding and data.notes == ()
    train, _, test = split(data, validation=0, test=0.5, rng=np.random.default_rng(0))
    assert np.isnan(np.concatenate([train.X, test.X])).sum() == 4
    tabs = load(
        TABLE.replace(",", "\t"), "kind", "t.tsv", drop=("city",), columns={"age": "ignore"}
    )
    assert tabs.feature_names == ("income",)
    with pytest.raises(ValueError, match=r"^drop must name columns of the table, got 'wage'"):
        load(TABLE, "kind", drop=["wage"])


def test_the_task_is_told_from_the_target_or_given(load):
    text = "x,n,m,r\n" + "".join(f"1,{i % 3},{i % 25},{i / 7}\n" for i in range(60))

    def made(target, **options):
        return load(text, target, **options)

    assert made("n").classes == (0, 1, 2) and made("n").y[:4].tolist() == [0, 1, 2, 0]
    assert made("m").classes is None and made("r").classes is None
    assert made("n", task="regression").y.dtype == np.float64
    assert len(made("m", task="classification").classes) == 25
    with pytest.raises(DataError, match="60 different numbers in 60 rows: that is a regression"):
        made("r", task="classification")


def test_words_for_gaps_may_be_classes(load):
    rows = "".join(f"{i},{['none', 'NA', 'null', 'low'][i % 4]}\n" for i in range(40))
    data = load("x,y\n" + rows, "y")
    assert data.classes == ("NA", "low", "none", "null") and len(data.y) == 40
    assert "holds 'NA' (10 rows), which is taken for a class" in data.notes[0]
    left = load("x,y\n" + rows, "y", missing=["NA"], drop_missing_target=True)
    assert left.classes == ("low", "none", "null") and len(left.y) == 30 == len(left.X)
    assert left.notes[0] == "the target 'y' is missing in 10 of 40 rows: left out"
    numbers = load(
        "x,y\n" + "".join(f"{i},{i % 3 or 'NA'}\n" for i in range(30)),
        "y",
        drop_missing_target=True,
    )
    assert numbers.classes == (1, 2)


def test_labels_keep_their_spelling_without_quotes(load):
    assert load('"x", "y"\n' + '1, "a"\n2, "06"\n' * 3, "y").classes == ("06", "a")


def test_a_target_that_cannot_be_learnt_is_refused(load, tmp_path):
    path = str(tmp_path / "table.csv")
    for target, reason in [
        ("wage", "table.csv: has no column 'wage' for the target; did you mean 'age'"),
        ("zzz", "has no column 'zzz' for the target; it has age, city, income, kind"),
        ("age", "table.csv:3: the target 'age' is missing in 2 of 4 rows; set data.drop_missing_t"),
    ]:
        with pytest.raises(DataError, match=reason):
            load(TABLE, target)
    with pytest.raises(DataError, match=r":2: column 'kind' holds 'x', which is not a number"):
        load(TABLE.replace("yes", "x"), "kind", task="regression")
    with pytest.raises(DataError, match="nothing but the target"):
        load("a\n1\n", "a")
    with pytest.raises(DataError, match="missing in 2 of 2 rows"):
        load("a,b\n1,\n2,\n", "b", drop_missing_target=True)
    with pytest.raises(DataError, match="holds 40 different labels in 40 rows"):
        load("a,b\n" + "".join(f"1,n{i}\n" for i in range(40)), "b")
    with pytest.raises(DataError, match=r"table\.csv:2: column 'a' holds inf"):
        load("a,b\ninf,0\n1,1\n2,1\n", "b")
    with pytest.raises(ValueError, match=r"^target must name a column"):
        load_dataset("csv", path=path)


def test_uneven_classes_are_pointed_out(load):
    data = load("x,y\n" + "".join(f"{i / 2},{int(i < 3)}\n" for i in range(60)) + "7,2\n", "y")
    assert data.notes == (
        "the target 'y' has a single row of class 2: it is trained on, not tested",
        "the target 'y' is uneven: 57 of 61 rows are of class 0; the balanced accuracy says more "
        "than the accuracy",
    )


def test_a_column_that_alone_tells_the_class_is_pointed_out(load):
    values, classes = np.random.default_rng(0).normal(size=100), np.arange(100) % 2
    rows = [f"{v},{['no', 'yes'][c]},{'ba'[c]}" for v, c in zip(values, classes, strict=True)]
    (told,) = [note for note in load("\n".join(["x,paid,y", *rows]), "y").notes if "alone" in note]
    assert told.startswith("column 'paid' alone tells the target in 100.0% of the rows")
    assert told.endswith("set data.drop: [paid]")


def test_a_number_beyond_float32_is_compared_as_the_others_are(load):
    rows = [f"{i * 1e300},{i % 7},{'no' if i < 50 else 'yes'}" for i in range(100)]
    (told,) = [note for note in load("\n".join(["x,z,y", *rows]), "y").notes if "alone" in note]
    assert told.startswith("column 'x' alone tells the target in 100.0% of the rows")


def test_little_more_than_the_most_frequent_class_is_no_leak(load):
    rng = np.random.default_rng(0)
    rare = np.arange(6000) % 200 == 7
    x, z = rng.normal(size=6000) + 3 * rare, rng.normal(size=6000)
    rows = [f"{a},{b},{int(c)},{int(c)}" for a, b, c in zip(x, z, rare, strict=True)]
    notes = load("\n".join(["x,z,copy,y", *rows]), "y").notes
    assert [note.split("'")[1] for note in notes if "alone" in note] == ["copy"]
    few = [f"{a},{b},{int(i == 60)}" for i, (a, b) in enumerate(zip(x[:120], z[:120], strict=True))]
    assert not [note for note in load("\n".join(["x,z,y", *few]), "y").notes if "alone" in note]


@pytest.mark.parametrize("name", ["true", "False", "null", "a b", "2019"])
def test_a_name_that_is_advised_to_be_dropped_is_text(load, name):
    rows = [f"{i % 7},{i % 2},{i % 2}" for i in range(60)]
    (told,) = [n for n in load("\n".join([f"x,{name},y", *rows]), "y").notes if "alone" in n]
    text = f"data: {{path: a.csv, target: y, {told.partition('set data.')[2]}}}"
    config = parse(text + "\nmodel: [linear: auto]\ntrain: {epochs: 1}", "c.yaml")
    assert config.data.dataset.options["drop"] == (name,)
