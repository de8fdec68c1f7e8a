"""Text files, frames and arrays become tables; the right columns, or the line of what is wrong."""

from __future__ import annotations

import gzip
import os
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest

from minidl.data import textfiles
from minidl.data.datasets import load_dataset
from minidl.data.formats import Format, open_data
from minidl.data.readers import read_table, tables_of
from minidl.data.tables import TableError, table_of
from minidl.errors import DataError

NAN = np.nan
TABLE = """\
"age", city ,income,kind
31,Rome,1e3,yes
,"Paris, Texas",NA,no
?,Rome,-2.5,yes

52,null, 7 ,no
"""


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8", name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return str(path)

    return write


def cells(column):
    """A column as floats, or as texts with None for gaps."""
    if column.texts is None:
        return column.values.tolist()
    return [None if place < 0 else column.texts[place] for place in column.values]


@pytest.mark.parametrize("size", [1, 7, 2**18])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_columns_hold_numbers_or_texts_and_gaps(write, monkeypatch, size, encoding):
    monkeypatch.setattr(textfiles, "BLOCK", size)
    table = read_table(write(TABLE.replace("Rome", "Köln"), encoding), Format(encoding=encoding))
    assert list(table.columns) == ["age", "city", "income", "kind"]
    assert np.array_equal(table.columns["age"].values, [31, NAN, NAN, 52], equal_nan=True)
    assert cells(table.columns["city"]) == ["Köln", "Paris, Texas", "Köln", None]
    assert np.array_equal(table.columns["income"].values, [1000, NAN, -2.5, 7], equal_nan=True)
    assert table.lines.tolist() == [2, 3, 4, 6] and table.n_rows == 4


def test_formats(write):
    german = Format(";", "latin-1", header=False, decimal=",", missing=("k.A.", "-999"))
    table = read_table(write("1,5;2;ä\nk.A.;-999;ß\n-,5;3;ß\n", "latin-1"), german)
    assert list(table.columns) == ["column_1", "column_2", "column_3"]
    assert np.array_equal(table.columns["column_1"].values, [1.5, NAN, -0.5], equal_nan=True)
    assert np.array_equal(table.columns["column_2"].values, [2, NAN, 3], equal_nan=True)
    assert cells(table.columns["column_3"]) == ["ä", "ß", "ß"]
    assert cells(read_table(write("a;b\n1.500;1\n"), Format(";", decimal=",")).columns["a"]) == (
        ["1.500"]
    )
    zipped = write(gzip.compress(b"a\tb\n1\t2\n"))
    assert cells(read_table(zipped, Format("\t")).columns["b"]) == [2]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_blocks_of_numbers_equal_cells_read_one_by_one(write, monkeypatch, ending, last):
    monkeypatch.setattr(textfiles, "BLOCK", 4000)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 6)) * 10.0 ** rng.integers(-20, 20, (500, 6))
    rows = [[repr(float(x)) for x in row] for row in X]
    for i in range(0, 500, 7):
        rows[i][i % 6] = ["", "0", "-0", "17", "1e5", "-3.", ".5", "2E-3", "+4", "00.5"][i % 10]
    text = ending.join(["a,b,c,d,e,f", *map(",".join, rows)]) + ending * last
    table = read_table(write(text))
    expected = [[float(cell or "nan") for cell in row] for row in rows]
    read = np.stack([column.values for column in table.columns.values()], axis=1)
    assert np.array_equal(read, expected, equal_nan=True)
    assert table.lines.tolist() == list(range(2, 502))


@pytest.mark.parametrize(
    "cell",
    "5% $5 1_0 1-2 2020-01-02 1.2.3 1e 1e+ - -. . 1e5e3 1e2.5 0x10 1d5 5- nan inf 01 5E102 5e102 "
    "e5 --5 +-5 1e5- 1e--5 abc".split(),
)
def test_cells_read_at_once_equal_cells_read_one_by_one(write, monkeypatch, cell):
    monkeypatch.setattr(textfiles, "BLOCK", 8)
    for rows in (["1,%s", "2,3"], ["%s,1", "2,3"], ["x,2", "3,%s"], ["y,%s", '"u v",7', "é,"]):
        lines = ["a,b", *(row % cell if "%" in row else row for row in 9 * rows)]
        quoted = [",".join(f'"{c.strip(chr(34))}"' for c in line.split(",")) for line in lines]
        text, quoted = ("\n".join(each) for each in (lines, quoted))
        read, expected = (read_table(write(each)).columns for each in (text, quoted))
        for name in "ab":
            assert repr(cells(read[name])) == repr(cells(expected[name]))


def test_empty_lines_and_empty_cells(write):
    for data in ("1,2\n\n3,4\n", "1,2\n,\n\n", "1,2\n \n3,4\n", ",2\n,\n3,4\n", "1\n\n2\n"):
        names = ",".join("abc"[: 1 + data.split("\n")[0].count(",")])
        rows = [line.split(",") for line in data.split("\n") if line.strip()]
        table = read_table(write(f"{names}\n{data}"))
        expected = [[float(cell or "nan") for cell in row] for row in rows]
        found = [column.values for column in table.columns.values()]
        assert np.array_equal(np.transpose(found), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10_19", ["1", "10_19"]),
        ("01234", ["1", "01234"]),
        ("5E102", ["1", "5E102"]),
        ("1,234", ["1", "1,234"]),
    ],
)
def test_texts_that_are_no_plain_numbers_stay_texts(write, text, expected):
    assert cells(read_table(write(f'a,b\n1,x\n"{text}",y\n')).columns["a"]) == expected


def test_lines_may_end_in_any_way(write, monkeypatch):
    for text in ("a,b\r1,2\r3,4\r", "a,b\r\n1,2\n3,4", "a,b\n1,2\r3,4\r\n"):
        table = read_table(write(text))
        assert cells(table.columns["b"]) == [2, 4] and table.lines.tolist() == [2, 3]
    monkeypatch.setattr(textfiles, "BLOCK", 8)
    table = read_table(write("a,b\nx,1\ny,2\nz,3\nx,4\ry,5\nv,6\n"))
    assert cells(table.columns["a"]) == [*"xyzxyv"]


def test_comments_above_the_names_and_delimiters_at_the_ends_of_lines(write):
    for above in ("# a, b\n#\n", "#a\n", "sep=,\n", ""):
        table = read_table(write(above + "a,b,\n1,2,\n3,4,\n"))
        assert list(table.columns) == ["a", "b"] and cells(table.columns["b"]) == [2, 4]
        assert table.where(0).endswith(f":{above.count(chr(10)) + 2}")
    table = read_table(write('# of 2020\n#a,b\n1,"2,5"\n'))
    assert list(table.columns) == ["#a", "b"] and cells(table.columns["b"]) == ["2,5"]
    assert cells(read_table(write("# x\n1,2\n"), Format(header=False)).columns["column_2"]) == [2]


@pytest.mark.parametrize("name", ["a.csv.gz", "a-images-idx3-ubyte.gz", "a.svm.gz", "a.npy.gz"])
def test_a_damaged_gzipped_file_is_said_in_a_line(tmp_path, name):
    rows = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(9999))
    whole = bytearray(gzip.compress(rows, mtime=0))
    for damaged in (whole[:-9], whole[:500] + b"?" * 40 + whole[540:], whole[:10] + b"?" * 99):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^.*{name}:.*$"):
            load_dataset("file", path=str(tmp_path / name), target="0" if "npy" in name else "a")


def test_spaces_and_signs_may_divide_cells(write, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 8)
    for mark in " -e":
        lines = [["a", "b", "c"], *([f"x{i % 3}", str(i % 7), ""] for i in range(20))]
        columns = read_table(write("\n".join(map(mark.join, lines))), Format(mark)).columns
        assert cells(columns["a"]) == [f"x{i % 3}" for i in range(20)]
        assert cells(columns["b"]) == [i % 7 for i in range(20)] and columns["c"].gaps.all()


def test_a_column_may_turn_into_texts_late(write, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 64)
    text = "a,b\n" + "".join(f"{i},{i / 2}\n" for i in range(100)) + "x,1\n" + "7,2\n" * 50
    column = read_table(write(text)).columns["a"]
    assert cells(column) == [*map(str, range(100)), "x", *["7"] * 50]
    text = "a;b\n" + "".join(f"{i},5;1\n" for i in range(100)) + "x;1\n"
    column = read_table(write(text), Format(";", decimal=",")).columns["a"]
    assert cells(column) == [*(f"{i},5" for i in range(100)), "x"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ": is empty"),
        ("\n\n", ": is empty"),
        ("a,a\n1,2\n", ":1: two columns are named 'a'"),
        ("a,\n1,2\n", ":1: column 2 of 2 has no name"),
        ("a,b\n", ": holds no row"),
        ("a,b\n1,2\n\n1,2,3\n", ":4: 3 cells, but 2 columns"),
        ('a,b\n1,"2\n3,4\n', ":2: a quote is opened and never closed"),
        ('a,b\n"1";2\n', """:2: ',' expected after '"'; where cells are not divided by ',', set"""),
        ("a;b\n1,5;2\n", ":2: 2 cells, but 1 column; delete lines above the names of the columns;"),
        ("# a;b\n", ": is empty"),
        ("a,b,\n1,2,\n1,2,3\n", ":1: column 3 of 3 has no name"),
        (b"a,b\n1,2\n\xff,2\n", ":3: byte 0xff is not utf-8 text; set data.encoding"),
        (b"a,b\n1,2\n1,\0\n", ":3: holds a zero byte"),
        (b"PAR1....", ": is not a text file, but a Parquet file; name it .parquet"),
        (b"PK\x03\x04...", ": is not a text file, but a zip archive, as .xlsx"),
        (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], ": cannot be read"),
        ("1" * 100, ":1: a line of over 64 bytes"),
        ("a,b\n1," + "1" * 100, ":2: a line of over 64 bytes"),
        (",".join(map(str, range(20))), ":1: 20 columns; at most 9"),
    ],
)
def test_what_is_no_table_is_refused(write, text, reason, monkeypatch):
    monkeypatch.setattr(textfiles, "MAX_LINE", 64)
    monkeypatch.setattr(textfiles, "MAX_COLUMNS", 9)
    monkeypatch.setattr(textfiles, "BLOCK", 32)
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(path + reason)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        open_data(tmp_path)
    for wrong in (
        {"delimiter": "ab"},
        {"decimal": "x"},
        {"encoding": "no"},
        {"delimiter": ",", "decimal": ","},
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must"):
            Format(**wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_files_without_an_end_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe", "/dev/null"):
        with pytest.raises(DataError, match="is not a file"):
            open_data(path)
    if os.path.exists("/proc/self/maps"):
        with pytest.raises(DataError, match="is empty"):
            open_data("/proc/self/maps")


def test_frames_and_arrays(tmp_path):
    frame = pd.DataFrame(
        {
            " BMI ": [1.5, NAN],
            "flag": [True, False],
            "few": pd.array([1, None], "Int64"),
            "day": pd.to_datetime(["2020-01-02", None]),
            "kind": pd.Categorical([7, None]),
            "text": ["NA", "x "],
        }
    )
    for each in (frame, pl.from_pandas(frame)):
        columns = {name: cells(column) for name, column in table_of(each).columns.items()}
        assert list(columns) == ["BMI", "flag", "few", "day", "kind", "text"]
        assert columns["flag"] == ["true", "false"] and columns["text"] == [None, "x"]
        assert columns["day"][0] == 1577923200
        assert columns["few"][0] == 1 and np.isnan(columns["few"][1])
        assert table_of(each).columns["day"].declared == "date"
    kind = table_of(frame).columns["kind"]
    assert kind.declared == "category" and cells(kind) == ["7", None]
    enum = pl.DataFrame({"a": pl.Series(["u", None], dtype=pl.Enum(["u", "v"]))})
    assert table_of(enum).columns["a"].declared == "category"
    assert cells(table_of(np.array([[True], [False]])).columns["column 0"]) == [1, 0]
    assert cells(table_of([[1, "a"], ["2", None]]).columns["column 0"]) == [1, 2]
    assert cells(table_of(np.array([[0.1]], np.float32), ("0.1",)).columns["column 0"]) != [0.1]
    for wrong in ([1, 2], np.zeros((2, 2, 2)), pd.DataFrame([[1, 2]], columns=["a", "a "])):
        with pytest.raises(TableError):
            table_of(wrong)
    pl.from_pandas(frame).write_parquet(tmp_path / "a.parquet")
    pl.from_pandas(frame).write_ipc(tmp_path / "a.arrow")
    for name in ("a.parquet", "a.arrow"):
        table = read_table(tmp_path / name)
        assert cells(table.columns["flag"]) == ["true", "false"]
        assert table.source == str(tmp_path / name)
    (tmp_path / "b.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"b\.parquet: is not a parquet file"):
        read_table(tmp_path / "b.parquet")


def test_a_stream_comes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 64)
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{i},x{i}\n" for i in range(100)))
    with open(path, "rb") as file:
        parts = list(tables_of(file, Format(), str(path), rows=30))
    assert len(parts) > 2
    read = [cell for part in parts for cell in cells(part.columns["b"])]
    assert read == [f"x{i}" for i in range(100)]
    assert parts[1].where(0) == f"{path}:{parts[0].n_rows + 2}"
