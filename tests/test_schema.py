"""What columns mean, and that equal cells mean the same whoever read them."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from minidl.data.cells import date_format, date_parts, key, moment, text_of
from minidl.data.formats import Format
from minidl.data.kinds import Tally
from minidl.data.readers import read_table
from minidl.data.schema import Schema
from minidl.data.tables import TableError, table_of

NAN = np.nan


@pytest.fixture
def read(tmp_path):
    def read(text, name="t.csv"):
        (tmp_path / name).write_text(text)
        return read_table(tmp_path / name)

    return read


def kinds(schema):
    return {column.name: column.kind for column in schema.columns}


FEATURES = {
    "lower": ["true", "false", "", "true"],
    "upper": ["TRUE", "FALSE", "FALSE", "TRUE"],
    "title": ["True", "", "False", "True"],
    "date": ["2020-01-02", "2021-12-31", "", "1999-05-06"],
    "moment": ["2020-01-02 03:04:05", "2021-12-31 00:00:00", "2020-01-01 00:00:01", ""],
    "american": ["01/31/2020", "02/28/2020", "03/01/2020", "01/31/2020"],
    "number": ["10.50", "3", "1e3", "-2.25"],
    "zip": ["01234", "1234", "00501", "01234"],
    "text": ["a b", " c", "None", "d"],
    "year": ["2015", "2016", "2017", "2015"],
}


@pytest.mark.parametrize("name", FEATURES)
def test_cells_mean_the_same_whoever_parsed_them(read, name):
    text = f"{name},x\n" + "".join(f'"{cell}",1\n' for cell in FEATURES[name])
    schema = Schema.infer(read(text), {name: "category"} if name == "zip" else None)
    expected = schema.encode(read(text))
    assert np.array_equal(np.isnan(expected[:, 0]), [c in ("", "None") for c in FEATURES[name]])
    frames = [
        pd.read_csv(io.StringIO(text)),
        pd.read_csv(io.StringIO(text), dtype=str),
        pd.read_csv(io.StringIO(text)).convert_dtypes(),
        pl.read_csv(io.StringIO(text), try_parse_dates=True),
        pl.read_csv(io.StringIO(text), infer_schema=False),
        pl.read_csv(io.StringIO(text)),
    ]
    if name in ("date", "moment", "american"):
        frames.append(pd.read_csv(io.StringIO(text), parse_dates=[name]))
        frames.append(frames[-1].assign(**{name: frames[-1][name].dt.tz_localize("UTC")}))
    for frame in frames:
        assert np.array_equal(schema.encode(frame), expected, equal_nan=True)
        rows = frame.to_numpy() if hasattr(frame, "iloc") else frame.rows()
        assert np.array_equal(schema.encode(rows), expected, equal_nan=True)


@pytest.mark.parametrize("form", ["pandas", "polars"])
def test_a_schema_of_a_frame_reads_the_files_cells(read, form):
    text = "f,d,n\n" + "true,2020-01-02,1\nfalse,2020-01-03,\n" * 3
    made = {"pandas": pd.read_csv, "polars": pl.read_csv}[form](io.StringIO(text))
    schema = Schema.infer(table_of(made))
    assert kinds(schema) == {"f": "category", "d": "date", "n": "number"}
    assert np.array_equal(schema.encode(read(text)), schema.encode(made), equal_nan=True)


def test_keys_are_one_text_for_equal_cells():
    for same in (["10.5", "10.50", " 10.5".strip(), "1.05e1"], ["TRUE", "true", "True"]):
        assert len({key(text) for text in same}) == 1
    assert key("01234") == key("1234") == key(text_of(1234.0)) == key(text_of(np.int64(1234)))
    assert key("12345678901234567890") == "12345678901234567890"
    assert key("2020-01-02") == key("2020-01-02T00:00:00") == key("2020-01-02 00:00:00+00:00")
    assert len({key(text) for text in ("yes", "Yes", "10_19", "1019", "none", "1,5")}) == 6
    assert text_of(np.float32(0.1)) == "0.1" and text_of(np.float64(5)) == "5"


def test_a_decimal_comma_of_a_label_is_a_frames_point(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n" + "k;x\n1,5;x\n2,50;y\n" * 5)
    form = Format(";", decimal=",")
    table = read_table(tmp_path / "t.csv", form)
    schema = Schema.infer(table, {"a": "category"}, decimal=",")
    frame = pd.DataFrame({"a": ["k", 1.5, 2.5], "b": ["x", "x", "y"]})
    expected = [[2, 0], [0, 0], [1, 1]]
    assert schema.encode(frame).tolist() == schema.encode(table)[:3].tolist() == expected


@pytest.mark.parametrize(
    "cell",
    ["-", ".", "--", "unknown", "#DIV/0!", "$5", "5%", '"1,234"', "10_19", "5E102", "1.2.3", "x"],
)
def test_one_bad_cell_among_numbers_is_named(read, cell):
    text = "a,b\n" + "".join(f"{i}.5,1\n" for i in range(50)) + f"{cell},1\n7,1\n"
    table, value = read(text), cell.strip('"')
    with pytest.raises(TableError) as caught:
        Schema.infer(table)
    message = str(caught.value)
    assert message.startswith(f"{table.source}:52: column 'a' holds {value!r} among numbers (1 of")
    assert "data.columns: {a: category}" in message
    assert ("data.decimal" in message) == ("," in cell)
    numeric = cell in ("$5", "5%", "5E102", '"1,234"')
    assert ("data.columns: {a: number}" in message) == numeric
    assert ("data.missing: [" in message) != numeric
    assert kinds(Schema.infer(table, {"a": "category"}))["a"] == "category"
    if numeric:
        assert Schema.infer(table, {"a": "number"}).encode(table)[50, 0] in (5, 5e102, 1234)
    else:
        with pytest.raises(TableError, match=r":52: column 'a' holds .* which is not a number"):
            Schema.infer(table, {"a": "number"})


def test_known_marks_of_gaps_and_another_minus_are_no_bad_cells(read):
    for cell in ("#N/A", "<NA>", "NaT", "\\N", "(null)", "NA", "n/a", "None", "?", "nan"):
        schema = Schema.infer(read(f"a,b\n1,1\n{cell},1\n2,1\n"))
        assert kinds(schema)["a"] == "number" and schema.columns[0].gaps == 1 / 3
    table = read("a,b\n1,1\n\N{MINUS SIGN}3,1\n2,1\n")
    assert Schema.infer(table).encode(table)[:, 0].tolist() == [1, -3, 2]


def test_kinds_are_told_from_all_cells(read):
    rows = 60
    table = read(
        "id,name,zip,number,city,day,code,flag\n"
        + "".join(
            f"{7 * i},n{i},0{i % 5}000,{i}.5,{'ABC'[i % 3]},{1 + i % 28}.2.2020,{i % 4}E{i % 3},"
            f"{'yes' if i % 2 else 'no'}\n"
            for i in range(rows)
        )
    )
    schema = Schema.infer(table)
    assert kinds(schema) == {
        "id": "ignore",
        "name": "ignore",
        "zip": "category",
        "number": "number",
        "city": "category",
        "day": "date",
        "code": "category",
        "flag": "category",
    }
    assert schema.columns[5].form == "%d.%m.%Y"
    assert [note.split(":")[0] for note in schema.notes] == ["column 'id'", "column 'name'"]
    assert schema.names == ("zip", "number", "city", "day", "code", "flag")
    kept = Schema.infer(table, {"id": "number", "name": "category", "flag": "number"})
    assert kinds(kept)["id"] == "number" and len(kept.columns[1].labels) == rows
    assert kept.encode(table)[:2, -1].tolist() == [0, 1]
    for wrong in ({"id": "text"}, {"wage": "number"}, {"id": "number %Y"}):
        with pytest.raises(ValueError, match=r"^columns must be"):
            Schema.infer(table, wrong)
    with pytest.raises(TableError, match=r"t\.csv:2: column 'city' holds 'A', which is not a date"):
        Schema.infer(table, {"city": "date"})
    with pytest.raises(TableError, match="no column to learn from"):
        Schema.infer(table_of(pd.DataFrame({"id": range(30)})))


def test_advice_can_be_written_into_a_config(read):
    for name, written in {"a": "a", "sold on": '"sold on"', "null": '"null"', "1": '"1"'}.items():
        table = read(f"{name},b\n" + "1.5,1\n" * 30 + "-,1\n")
        with pytest.raises(TableError) as caught:
            Schema.infer(table)
        assert f"set data.columns: {{{written}: category}}" in str(caught.value)


def test_advice_to_an_estimator_names_its_parameters():
    cells = pd.DataFrame({"a": ["-", *map(str, range(30))], "b": [f"x{i}" for i in range(31)]})
    with pytest.raises(TableError, match=r"set columns=\{'a': 'category'\} .*, or missing=\['-'\]"):
        Schema.infer(table_of(cells))
    kept = Schema.infer(table_of(cells), {"a": "category"})
    assert kept.notes == (
        "column 'b': has texts that hardly repeat, as an identifier has: left out; "
        "columns={'b': 'category'} (or number) keeps it",
    )


def test_many_labels_are_capped_and_said():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": [f"l{n}" for n in rng.zipf(1.2, 3000) % 1000]})
    schema = Schema.infer(table_of(frame))
    counts = frame["a"].value_counts()
    assert len(schema.columns[0].labels) == 100
    assert counts[list(schema.columns[0].labels)].min() >= counts.iloc[100]
    assert f"has {len(counts)} labels" in schema.notes[0] and "100 most frequent" in schema.notes[0]
    assert len(Schema.infer(table_of(frame), max_labels=10**6).columns[0].labels) == len(counts)


def test_what_training_never_held_is_reported_once():
    frame = pd.DataFrame({"a": ["x", "y"] * 10, "b": np.arange(20.0) % 7, "c": [0.5, NAN] * 10})
    schema = Schema.infer(table_of(frame))
    new = pd.DataFrame({"b": [3, NAN, 1e6], "c": [NAN, 1, 1], "a": ["z", "x", "q"], "more": 1})
    with pytest.warns(UserWarning) as caught:
        schema.encode(new)
    assert str(caught[0].message) == (
        "column 'a': 2 of 3 rows hold a label that training did not see or keep, such as 'z'; "
        "column 'b': 1 of 3 rows are far outside the range of the training table, such as 1000000; "
        "column 'b': 1 of 3 rows lack a value, and none did in training"
    )
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema.encode(new, tally)
        schema.encode(new, tally)
    assert tally.messages()[0].startswith("column 'a': 4 of 6 rows hold a label")


def test_columns_are_taken_by_name():
    frame = pd.DataFrame({" BMI ": [1.0, 2.0], "b": [3.0, 4.0], "c": ["u", "v"]})
    schema = Schema.infer(table_of(frame), {"b": "ignore"})
    expected = [[1, 0], [2, 1]]
    for same in (frame, frame[["c", "b", " BMI "]], frame.drop(columns="b"), frame.assign(d=1)):
        assert schema.encode(same).tolist() == expected
    assert schema.encode(frame.to_numpy()).tolist() == expected
    assert schema.encode(frame.to_numpy()[:, [0, 2]]).tolist() == expected
    with pytest.raises(TableError, match=r"missing: BMI, c; unknown: none$"):
        schema.encode(frame[["b"]])
    with pytest.raises(TableError, match="must have 2 columns, got 1"):
        schema.encode(np.zeros((1, 1)))
    for value, reason in (("x", "which is not a number"), (np.inf, "every value must be finite")):
        with pytest.raises(
            TableError, match=rf"^X, row 1: column 'BMI' holds '?{value}'?.* {reason}"
        ):
            schema.encode(pd.DataFrame({"BMI": [1, value], "c": ["u", "v"]}, dtype=object))


def test_a_schema_comes_back_from_its_state(read):
    table = read("a,b,day,gap\n1,x,2020-01-02,NA\n2,y,2020-01-03,NA\n")
    schema = Schema.infer(table, missing=("-",), decimal=".")
    again = Schema.restore(schema.state())
    assert repr(again) == repr(schema)
    assert np.array_equal(again.encode(table), schema.encode(table), equal_nan=True)
    state = schema.state().tobytes()
    for wrong in (
        state[:-1],
        state.replace(b"number", b"amount"),
        state.replace(b'"name": "b"', b'"name": "a"'),
        state.replace(b'"name": "b"', b'"name": 1'),
        state.replace(b'["x", "y"]', b"[]"),
        state.replace(b'"low": 1.0', b'"low": "1"'),
        b"[" * 10**5,
    ):
        with pytest.raises((ValueError, KeyError, TypeError, RecursionError)):
            Schema.restore(np.frombuffer(wrong, np.uint8))


def test_dates_of_many_formats():
    day = moment("2020-01-31", "iso")
    for text in "2020-01-31|01/31/2020|31/01/2020|2020/01/31|31.01.2020|31 Jan 2020".split("|"):
        form = date_format([text])
        assert moment(text, form) == day
        assert moment(text + " 13:30", date_format([text + " 13:30"])) == day + 13.5 * 3600
    assert date_format(["2020-01-31", "x"]) is None and date_format(["12", "13"]) is None
    assert moment("2020-01-31T00:00:00+09:00", "iso") == day - 9 * 3600
    assert moment("0001-01-01T00:00:00+14:00", "iso") is None  # before the first year in UTC
    assert key("2020-01-31T01:02:03.000004") == "2020-01-31 01:02:03.000004"
    stamps = pd.date_range("1903-02-27 05:00", periods=300, freq="211h")
    parts = date_parts(stamps.astype("datetime64[s]").asi8.astype(float))
    for j, name in enumerate(("year", "month", "day_of_week", "hour")):
        assert np.array_equal(parts[:, j], getattr(stamps, name))
    assert np.isnan(date_parts(np.array([NAN]))).all()
