"""`minidl convert`: the rows, the meaning and the training of the table, in flat memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from minidl import cli
from minidl.config import load_config
from minidl.data import conversion, files, readers, textfiles
from minidl.data.disk import DiskRows
from minidl.data.files import file
from minidl.data.formats import Format
from minidl.predictor import load
from minidl.runs.experiment import Experiment

ROWS = 900


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 1 << 10)
    monkeypatch.setattr(readers, "CELLS", 400)


@pytest.fixture
def table(tmp_path, small_pieces):
    """Numbers, a number with gaps, a category, a date, texts that never repeat, and labels."""
    rng = np.random.default_rng(0)
    lines = ["a,b,kind,day,name,target"]
    for i in range(ROWS):
        gap = "" if i % 7 == 3 else f"{rng.normal():.3f}"
        kind = "xyz"[rng.integers(3)]
        target = "yes" if kind == "x" or i % 5 == 0 else "no"
        lines.append(f"{rng.normal():.6f},{gap},{kind},2024-01-{1 + i % 28:02},n{i}q,{target}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code and what it printed."""

    def run(*arguments):
        code = cli.main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


def parquet(path):
    polars = pytest.importorskip("polars")
    polars.read_csv(path, try_parse_dates=True).write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_pair_holds_the_rows_and_the_meaning_of_the_table(table, run, kind, monkeypatch):
    monkeypatch.setattr(conversion, "SAMPLE_PIECES", 6)  # ranges and gaps are those of all rows
    path = table if kind == "csv" else parquet(table)
    found = run("convert", path, "--target", "target", "--out", table.parent / "pair")
    assert found.code == 0 and "900 rows, 4 columns" in found.out
    assert "column 'name': has texts that hardly repeat" in found.err
    whole = file(path=str(path), target="target")
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    pair = file(path=str(table.parent / "pair" / "X.npy"), target="y.npy")
    assert type(pair.X) is DiskRows and pair.X.dtype == np.float64
    assert np.array_equal(pair.X[:], whole.X, equal_nan=True)
    assert np.array_equal(pair.y, whole.y)
    assert (pair.classes, pair.feature_names) == (whole.classes, whole.feature_names)
    assert pair.schema.state().tobytes() == whole.schema.state().tobytes()


CONFIG = """
data: {{path: {path}, target: {target}, validation: 0.2, preprocessing: smooth_clip}}
model: [linear: 6, relu, linear: auto]
train: {{epochs: 2, batch_size: 32, blas_threads: 1, optimizer: adam}}
"""


def test_training_on_the_pair_gives_the_bits_of_training_on_the_table(table, run, monkeypatch):
    folder = table.parent
    assert run("convert", table, "--target", "target", "--out", folder / "pair").code == 0

    def trained(path, target):
        (folder / "c.yaml").write_text(CONFIG.format(path=path, target=target))
        experiment = Experiment(load_config(folder / "c.yaml"))
        training = experiment.training()
        for _ in training.steps():
            pass
        return experiment.model.params.tobytes(), experiment

    expected, _ = trained("t.csv", "target")
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    found, experiment = trained("pair/X.npy", "y.npy")
    assert found == expected and type(experiment.dataset.X) is DiskRows


def test_a_model_of_the_pair_predicts_rows_of_the_table(table, run):
    folder = table.parent
    run("convert", table, "--target", "target", "--out", folder / "pair", "--float32")
    (folder / "c.yaml").write_text(CONFIG.format(path="pair/X.npy", target="y.npy"))
    assert run("train", folder / "c.yaml", "--out", folder / "run", "--quiet").code == 0
    assert load(folder / "run" / "model.npz").feature_names == ["a", "b", "kind", "day"]
    found = run("predict", folder / "run", table)
    lines = found.out.splitlines()
    assert found.code == 0 and len(lines) == 1 + ROWS and set(lines[1:]) <= {"yes", "no"}


def test_memory_stays_flat_while_the_table_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 1 << 13)
    monkeypatch.setattr(conversion, "SAMPLE_PIECES", 4)

    def peak(n_rows):
        path = tmp_path / f"{n_rows}.csv"
        rows = np.random.default_rng(0).integers(0, 10, (n_rows, 30)).astype(str)
        path.write_text("\n".join([",".join(f"c{j}" for j in range(30)), *map(",".join, rows)]))
        tracemalloc.start()
        conversion.convert(str(path), tmp_path / "out", "c0", form=Format(), columns={})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(1500), peak(6000)
    assert large - small < 4500 * 30 * 8 / 3  # of the numbers; the target is held in memory


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--target", "targt"], 3, "has no column 'targt'"),
        (["--target", "b"], 3, "the target 'b' is missing in 129 of 900 rows"),
        (["--target", "target", "--column", "kind"], 2, "--column takes NAME=KIND, got 'kind'"),
        (["--target", "target", "--column", "kind=number"], 3, "which is not a number"),
        (
            ["--target", "target", "--column", "knd=date"],
            2,
            "columns must be names of columns of the table",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_written(table, run, arguments, code, said):
    found = run("convert", table, "--out", table.parent / "pair", *arguments)
    assert found.code == code and said in found.err
    assert not list((table.parent / "pair").glob("*.npy"))


@pytest.mark.parametrize("below", ["", "pair"])
def test_a_folder_that_cannot_be_made_is_said(table, run, below):
    out = table / below
    found = run("convert", table, "--target", "target", "--drop-missing-target", "--out", out)
    assert found.code == 2
    assert found.err.startswith(f"{out}: cannot be used as output folder: ")
    assert "Traceback" not in found.err and table.is_file()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_without_rows_is_said(table, run, kind):
    table.write_text(table.read_text().splitlines()[0] + "\n")
    path = table if kind == "csv" else parquet(table)
    found = run("convert", path, "--target", "target", "--out", table.parent / "pair")
    assert found.code == 3 and "holds no row" in found.err


def test_rows_without_a_target_can_be_left_out_and_files_are_kept_unless_forced(table, run):
    options = ["--target", "b", "--out", table.parent / "pair", "--drop-missing-target"]
    assert "771 rows" in run("convert", table, *options).out
    assert len(np.load(table.parent / "pair" / "X.npy")) == 771
    found = run("convert", table, *options)
    assert found.code == 2 and "--force" in found.err
    assert run("convert", table, *options, "--force").code == 0


@pytest.mark.parametrize("name", conversion.FILES)
def test_no_file_is_replaced_unasked(table, run, name):
    file = table.parent / "pair" / name
    file.parent.mkdir()
    file.write_text("mine")
    found = run("convert", table, "--target", "target", "--out", file.parent)
    assert found.code == 2 and f"{name}: exists and is kept" in found.err
    assert file.read_text() == "mine" and os.listdir(file.parent) == [name]


@pytest.mark.parametrize("last", conversion.FILES)
def test_a_conversion_cut_off_leaves_no_old_file_beside_a_new_one(table, run, monkeypatch, last):
    options = [table, "--target", "target", "--out", table.parent / "pair"]
    assert run("convert", *options).code == 0
    (table.parent / "c.yaml").write_text(CONFIG.format(path="pair/X.npy", target="y.npy"))
    replace_file = conversion.replace_file

    def cut_off(path, write):
        def cut(file):
            write(file)
            raise KeyboardInterrupt

        replace_file(path, cut if path.name == last else write)

    monkeypatch.setattr(conversion, "replace_file", cut_off)
    table.write_text(table.read_text().replace("yes", "maybe"))
    assert run("convert", *options, "--force").code == 130
    found = run("train", table.parent / "c.yaml")
    assert found.code == 3 and "y.npy" in found.err and found.err.count("\n") == 1


def test_labels_that_the_sample_lacks_are_said(table, run, monkeypatch):
    monkeypatch.setattr(conversion, "SAMPLE_PIECES", 1)
    lines = table.read_text().splitlines()
    lines[500] = "1,2,rare,2024-01-01,q,no"
    table.write_text("\n".join(lines))
    found = run("convert", table, "--target", "target", "--out", table.parent / "pair")
    assert found.code == 0 and "column 'kind': 1 of 900 rows hold a label" in found.err


def test_a_meaning_that_does_not_fit_is_an_error(table, run):
    run("convert", table, "--target", "target", "--out", table.parent / "pair")
    path = table.parent / "pair" / "X.npy.schema.json"
    document = json.loads(path.read_text())
    document["columns"] = document["columns"][1:]
    for text in (json.dumps(document), "{", "[]"):
        path.write_text(text)
        found = run("train", "data.path=" + str(path.parent / "X.npy"), "data.target=y.npy")
        assert found.code in (2, 3)
