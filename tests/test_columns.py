"""A run on a file, and predictions from whatever reads the same cells: the same answers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from minidl import cli, load
from minidl.predictor import Predictor

pyarrow = pytest.importorskip("pyarrow")

CONFIG = """
data: {path: t.csv, target: y, preprocessing: smooth_clip, validation: 0.2, test: 0}
model: [linear: 16, relu, linear: auto]
train: {epochs: 40, optimizer: {name: adam, learning_rate: 0.02}}
"""


def column(name, n=120):
    i = np.arange(n)
    return {
        "booleans": np.where(i % 2, "true", "false"),
        "capitals": np.where(i % 2, "TRUE", "FALSE"),
        "dates": [f"20{10 + k % 2}-01-{1 + k % 28:02}" for k in i],
        "decimals": [["10.50", "9.25"][k % 2] for k in i],
        "codes": [["01234", "00501"][k % 2] for k in i],
        "numbers": [str(k % 2 * 10) for k in i],
        "gaps": [["NA", "7"][k % 2] for k in i],
    }[name]


@pytest.mark.parametrize(
    "name", ["booleans", "capitals", "dates", "decimals", "codes", "numbers", "gaps"]
)
def test_whoever_reads_the_cells(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = column(name)
    y = np.where(np.arange(len(cells)) % 2, "b", "a")
    text = " f ,y\n" + "".join(f"{f},{c}\n" for f, c in zip(cells, y, strict=True))
    Path("t.csv").write_text(text)
    Path("c.yaml").write_text(CONFIG)
    assert cli.main(["train", "c.yaml", "--out", "run", "--quiet"]) == 0
    model = load("run/model.npz")
    frames = [
        pd.read_csv(io.StringIO(text)),
        pd.read_csv(io.StringIO(text), dtype=str),
        pd.read_csv(io.StringIO(text)).convert_dtypes(dtype_backend="numpy_nullable"),
        pl.read_csv(io.StringIO(text), try_parse_dates=True),
        pyarrow.Table.from_pandas(pd.read_csv(io.StringIO(text))),
    ]
    with pytest.warns(UserWarning, match="columns that the model does not use: y"):
        first = model.predict(frames[0])
    assert (first == y).mean() == 1
    for frame in frames:
        assert np.array_equal(model.predict(frame), y)
    assert np.array_equal(model.predict(np.array(cells)[:, None]), y)
    assert np.array_equal(model.predict(pd.DataFrame({"f": cells})), y)
    model.save("again.npz")
    again = load("again.npz")
    assert repr(again.schema) == repr(model.schema)  # a NaN does not equal itself
    assert np.array_equal(again.predict_proba(frames[0][[" f "]]), model.predict_proba(frames[0]))


def test_what_the_model_never_saw_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{'uvw'[i % 3]},{i % 7},{i % 2}\n" for i in range(60))
    Path("t.csv").write_text("f,x,y\n" + rows)
    Path("c.yaml").write_text(CONFIG)
    assert cli.main(["train", "c.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    model = load("run/model.npz")
    assert isinstance(model, Predictor) and model.feature_names == ["f", "x"]
    with pytest.warns(UserWarning, match=r"'f': 1 of 2 rows hold a label .* such as 'q'; .*'x': 1"):
        model.predict(pd.DataFrame({"x": [900, 1], "f": ["u", "q"]}))
    with pytest.raises(ValueError, match="missing: x"):
        model.predict(pd.DataFrame({"f": ["u"]}))
    with pytest.raises(ValueError, match=r"X, row 1: column 'x' holds 'old', which is"):
        model.predict(pd.DataFrame({"x": [1, "old"], "f": "u"}))


def test_numbers_alone_stay_as_fast(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 5},{i % 7},{i % 2}\n" for i in range(60))
    Path("t.csv").write_text("f,x,y\n" + rows)
    Path("c.yaml").write_text(CONFIG)
    assert cli.main(["train", "c.yaml", "--out", "run", "--quiet", "train.epochs=1"]) == 0
    model = load("run/model.npz")
    X = np.array([[1.0, 2], [4, 5]])
    expected = model.predict_proba(pd.DataFrame(X, columns=["f", "x"]))
    monkeypatch.setattr("minidl.data.schema.table_of", None)  # no column is looked at alone
    assert np.array_equal(model.predict_proba(X), expected)
    with pytest.warns(UserWarning, match="'x': 1 of 1 rows are far outside"):
        model.predict(np.array([[0.0, 99.0]]))
