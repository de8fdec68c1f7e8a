"""`minidl init`: from a table to a config that trains at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from minidl import cli, load
from minidl.config import load_config
from minidl.data.formats import Format, detect_format
from minidl.data.inspection import inspect
from minidl.errors import DataError
from minidl.tabular.members import length_for

RNG = np.random.default_rng(0)
N = 120
FRAME = pd.DataFrame(
    {
        "customer id": [f"c{i}" for i in range(N)],
        "age": RNG.integers(18, 80, N),
        "income": RNG.normal(3000, 500, N).round(2),
        "city": RNG.choice(["Köln", "Málaga", "Oslo"], N),
        "zip": [f"0{i % 7}123" for i in range(N)],
        "sold on": pd.date_range("2020-01-01", periods=N).strftime("%d.%m.%Y"),
        "same": 1,
        "gap": np.where(np.arange(N) % 9, RNG.normal(size=N).round(3), np.nan),
        "y: z": RNG.choice(["yes", "no"], N),
    }
)
KINDS = {
    "customer id": "ignore",
    "age": "number",
    "income": "number",
    "city": "category",
    "zip": "category",
    "sold on": "date %d.%m.%Y",
    "same": "ignore",
    "gap": "number",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


WRITTEN = {
    "commas": ({}, Format()),
    "bom": ({"encoding": "utf-8-sig"}, Format()),
    "german": (
        {"sep": ";", "decimal": ",", "encoding": "latin-1"},
        Format(";", "latin-1", decimal=","),
    ),
    "tabs": ({"sep": "\t", "na_rep": "?"}, Format("\t")),
    "bars": ({"sep": "|", "na_rep": "NULL", "quoting": 1}, Format("|")),
    "windows": (
        {"sep": ";", "encoding": "cp1252", "na_rep": "…"},
        Format(";", "cp1252", missing=("…",)),
    ),
    "excel": ({"sep": "\t", "encoding": "utf-16"}, Format("\t", "utf-16")),
    "nothing": ({"na_rep": "-"}, Format(missing=("-",))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_file_is_understood_and_its_config_trains(name, capsys):
    options, form = WRITTEN[name]
    FRAME.to_csv("a.csv", index=False, **options)
    assert cli.main(["init", "a.csv", "--target", "y: z"]) == 0
    out, err = capsys.readouterr()
    assert "Classification: the target holds 2 classes, no, yes" in out and "a.yaml" in out
    assert "column 'customer id' is left out" in err and "'same' is left out" in err
    found = inspect("a.csv", "y: z")
    kinds = {name: kind for name, (kind, _) in found.columns.items()}
    assert found.form == form and kinds == KINDS
    config = load_config("a.yaml")
    options = config.data.dataset.options
    assert options["columns"] == KINDS and options["decimal"] == form.decimal
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    data = config.data.dataset.build()
    assert data.feature_names == ("age", "income", "city", "zip", "sold on", "gap")
    assert np.array_equal(data.X[:, 1], FRAME["income"])
    assert np.array_equal(np.isnan(data.X[:, 5]), FRAME["gap"].isna())
    assert load("run/model.npz").classes == ["no", "yes"]


@pytest.mark.parametrize("n_rows, epochs, batch_size", [(120, 200, 64), (1600, 200, 128)])
def test_the_length_of_training_is_the_estimators(n_rows, epochs, batch_size):
    pd.DataFrame({"x": RNG.normal(size=n_rows), "y": RNG.normal(size=n_rows)}).to_csv("a.csv")
    cli.main(["init", "a.csv", "--target", "y"])
    assert "`minidl.tabular.TabularRegressor`" in Path("a.yaml").read_text()
    train = load_config("a.yaml").train
    found = train.batch_size, train.epochs, train.early_stopping.patience
    assert found == length_for(n_rows * 7 // 10)
    assert (train.epochs, train.batch_size) == (epochs, batch_size)


def test_training_holds_to_the_kinds(capsys):
    FRAME.to_csv("a.csv", index=False)
    cli.main(["init", "a.csv", "--target", "y: z"])
    changed = FRAME.astype(object)
    changed.loc[7, "age"] = "old"
    changed.to_csv("a.csv", index=False)
    capsys.readouterr()
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet"]) == 3
    assert "a.csv:9: column 'age' holds 'old', which is not a number" in capsys.readouterr().err


def test_a_column_of_the_map_can_be_dropped(capsys):
    FRAME.to_csv("a.csv", index=False)
    cli.main(["init", "a.csv", "--target", "y: z"])
    command = ["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1", "data.drop=[age]"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "age" not in load("run/model.npz").feature_names


def test_a_regression_and_what_should_be_looked_at(capsys):
    y = RNG.normal(size=N).round(4)
    frame = pd.DataFrame(
        {
            "x": RNG.normal(size=N).round(3),
            "copy": y,
            "scaled": np.exp(y),
            "codes": ["1", "x2"] * (N // 2),
            "y": y,
        }
    )
    frame.loc[3, "y"] = np.nan
    frame.to_csv("b.csv", index=False)
    assert cli.main(["init", "b.csv", "--target", "y", "--out", "c.yaml"]) == 0
    err = capsys.readouterr().err
    assert "the target 'y' is missing in 1 of 120 rows: left out" in err
    for name in ("copy", "scaled"):
        assert f"column '{name}' has the order of the target (rank correlation 1.0000)" in err
    assert "column 'x'" not in err
    assert re.search(r"b\.csv:3: column 'codes' holds 'x2' among numbers.* a category", err)
    text = Path("c.yaml").read_text()
    assert "drop_missing_target: true" in text and "task: regression" in text
    assert cli.main(["train", "c.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0


def test_a_few_odd_cells_leave_a_column_of_numbers(capsys):
    frame = FRAME[["age", "income", "gap", "y: z"]].astype(object)
    frame.loc[3, "age"], frame.loc[4, "age"] = "#DIV/0!", "12abc"
    frame.loc[5, "income"] = "$3,000.5"
    frame["share"] = [f"{i}%" for i in range(N)]
    frame["sum"] = [f"{i + 1},000" for i in range(N)]
    frame["floor"] = ["1", "2", "3b", "4c"] * (N // 4)
    frame.to_csv("a.csv", index=False, sep=";")
    assert cli.main(["init", "a.csv", "--target", "y: z"]) == 0
    err = capsys.readouterr().err
    assert "a.csv:5: column 'age' holds '#DIV/0!': such cells (2) are taken for gaps" in err
    assert "a.csv:7: column 'income' holds '$3,000.5': such cells (1) are read as numbers" in err
    assert "column 'share' holds '0%': such cells (120)" in err and "taken for a category" in err
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    data = load_config("a.yaml").data.dataset.build()
    assert data.feature_names == ("age", "income", "gap", "share", "sum", "floor")
    assert np.isnan(data.X[3:5, 0]).all() and np.isnan(data.X[:, 0]).sum() == 2
    assert data.X[5, 1] == 3000.5 and np.array_equal(data.X[:, 3], range(N))
    assert np.array_equal(data.X[:, 4], np.arange(1, N + 1) * 1000)


def test_a_target_of_numbers_with_an_odd_cell(capsys):
    pd.DataFrame({"x": RNG.normal(size=N), "y": [*range(N - 2), "-", "NA"]}).to_csv("a.csv")
    assert cli.main(["init", "a.csv", "--target", "y"]) == 0
    out, err = capsys.readouterr()
    assert "Regression" in out and "missing in 2 of 120 rows" in err
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0


def test_words_for_a_gap_in_a_target_of_classes(capsys):
    y = ["yes", "no", "NA", "None"] * 30
    pd.DataFrame({"x": RNG.normal(size=N), "y": y}).to_csv("a.csv", index=False)
    assert cli.main(["init", "a.csv", "--target", "y"]) == 0
    out, err = capsys.readouterr()
    assert "3 classes, None, no, yes" in out and "holds 'NA': taken for a gap" in err
    assert "missing in 30 of 120 rows" in err and "holds 'None' (30 rows), which is taken" in err
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    assert load("run/model.npz").classes == ["None", "no", "yes"]


@pytest.mark.parametrize(
    "cells, decimal",
    [
        (["1.234,5", "12"], ","),
        (["94,710", "710", "1,234,567"], "."),
        (["1.234", "0.5"], "."),
        (["1,234", "0,5"], ","),
        (["1.500", "2.250"], "."),
        (["$1,234.5"], "."),
    ],
)
def test_the_decimal_mark_is_told_from_groups_of_digits(cells, decimal):
    Path("a.csv").write_text("x;y\n" + "".join(f"{cell};1\n" for cell in cells))
    assert detect_format("a.csv").decimal == decimal


def test_the_task_can_be_said(capsys):
    pd.DataFrame({"x": RNG.normal(size=N), "y": [4, 6, 8] * 40}).to_csv("a.csv", index=False)
    for task in ("classification", "regression"):
        arguments = ["init", "a.csv", "--target", "y", "--task", task, "--force"]
        assert cli.main(arguments) == 0 and task.capitalize() in capsys.readouterr().out
        assert cli.main(["train", "a.yaml", "--out", task, "--quiet", "train.epochs=1"]) == 0


def test_a_file_without_a_header(capsys):
    FRAME[["age", "income", "y: z"]].to_csv("a.csv", index=False, header=False)
    assert cli.main(["init", "a.csv", "--target", "column_3"]) == 0
    assert "header: false" in Path("a.yaml").read_text()
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    years = "2015,2016\n1,2\n3,4\n"
    Path("y.csv").write_text(years)
    assert not detect_format("y.csv").header and detect_format("y.csv", "2016").header


def test_long_lines_are_told_from_other_encodings_and_from_tables():
    Path("a.csv").write_text("a,b\n1," + "é" * 2**20 + "\n", encoding="utf-8")
    assert detect_format("a.csv").encoding == "utf-8"
    Path("a.csv").write_text("a" * 200_000)
    with pytest.raises(DataError, match=r"a\.csv: is no text of rows and columns"):
        detect_format("a.csv")


def test_what_cannot_be_begun_is_one_line(capsys):
    FRAME.to_csv("a.csv", index=False)
    for arguments, code, reason in [
        (
            ["a.csv", "--target", "y z"],
            3,
            "no column 'y z' for the target; did you mean 'y: z'",
        ),
        (["none.csv", "--target", "y"], 3, "none.csv: no such file"),
        (["a.csv"], 2, "--target"),
        (["a.csv", "--target", "customer id"], 3, "they hardly repeat"),
    ]:
        assert cli.main(["init", *arguments]) == code
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1
    pd.DataFrame({"x": range(9), "y": 1}).to_csv("c.csv", index=False)
    assert cli.main(["init", "c.csv", "--target", "y"]) == 3
    assert "the target 'y' is 1 in all rows" in capsys.readouterr().err
    Path("a.yaml").write_text("mine")
    assert cli.main(["init", "a.csv", "--target", "y: z"]) == 2
    assert "a.yaml: exists and is kept" in capsys.readouterr().err
    assert Path("a.yaml").read_text() == "mine"
    assert cli.main(["init", "a.csv", "--target", "y: z", "--force"]) == 0
    pd.DataFrame({"id": range(30), "y": [0, 1] * 15}).to_csv("i.csv", index=False)
    with pytest.raises(DataError, match="no column to learn from: 'id' is an identifier"):
        inspect("i.csv", "y")


@pytest.mark.parametrize("name", ["a.npz", "a.NPY", "a.svm.gz"])
def test_a_name_that_training_reads_otherwise_is_refused(name):
    FRAME.to_csv(name, index=False, compression=None)
    with pytest.raises(DataError, match=rf"{name}: is no table by its name"):
        inspect(name, "y: z")


def test_na_is_a_class_beside_a_single_other_label(capsys):
    pd.DataFrame({"x": RNG.normal(size=N), "y": ["NA", "z"] * (N // 2)}).to_csv("a.csv")
    assert cli.main(["init", "a.csv", "--target", "y"]) == 0
    out, err = capsys.readouterr()
    assert "2 classes, NA, z" in out and "if it marks a gap, set data.missing: [NA]" in err
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    assert load("run/model.npz").classes == ["NA", "z"]


def test_a_hostile_header_stays_a_comment():
    name = "a\x1b[31m # b: [c]"
    frame = pd.DataFrame({name: RNG.normal(size=40), "null": range(40), "y": [0, 1] * 20})
    frame.to_csv("a.csv", index=False)
    assert cli.main(["init", "a.csv", "--target", "y"]) == 0
    assert load_config("a.yaml").data.dataset.options["columns"] == {
        name: "number",
        "null": "number",
    }


def test_a_class_of_two_lines_leaves_a_config_that_trains(capsys):
    pd.DataFrame({"x": range(60), "y": ["one\nline", "b: c"] * 30}).to_csv("a.csv", index=False)
    assert cli.main(["init", "a.csv", "--target", "y"]) == 0
    assert "2 classes, b: c, one line; train" in capsys.readouterr().out
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    assert load("run/model.npz").classes == ["b: c", "one\nline"]


def test_infinite_numbers_are_taken_for_gaps(capsys):
    frame = FRAME[["age", "income", "y: z"]].copy()
    frame.loc[[3, 4], "income"] = np.inf, -np.inf
    frame["rate"] = [*map(str, range(1, N - 1)), "Infinity", "-"]
    frame.to_csv("a.csv", index=False)
    assert cli.main(["init", "a.csv", "--target", "y: z"]) == 0
    err = capsys.readouterr().err
    assert "a.csv:5: column 'income' holds 'inf': such cells (2) are taken for gaps" in err
    assert "a.csv:120: column 'rate' holds 'Infinity': such cells (2) are taken for gaps" in err
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    data = load_config("a.yaml").data.dataset.build()
    assert data.schema.labels == ((), (), ())
    assert np.isnan(data.X).sum(axis=0).tolist() == [0, 2, 2]


def test_numbers_and_other_texts_that_hardly_repeat_are_left_out(capsys):
    ticket = [f"A/5 {i}" if i % 3 else str(1000 + i) for i in range(N)]
    FRAME[["age", "y: z"]].assign(ticket=ticket).to_csv("a.csv", index=False)
    assert cli.main(["init", "a.csv", "--target", "y: z"]) == 0
    said = "column 'ticket' is left out: holds numbers and other texts, which hardly repeat"
    assert said in capsys.readouterr().err
    assert f"ticket: ignore  # {said.partition(': ')[2]}" in Path("a.yaml").read_text()
    assert cli.main(["train", "a.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
