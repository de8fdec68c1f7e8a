"""From a table to predictions and figures on the command line."""

import csv
import gzip
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import load
from minidl.data import textfiles
from minidl.data.readers import tables_of
from minidl.report.metrics import metric_name

TEXT = """\
data: {name: file, path: train.csv, target: buys, validation: 0, test: 20}
model: [linear: 8, relu, linear: auto]
train: {epochs: 3, batch_size: 16}
"""
COLUMNS = ["age", "income", "colour", "joined", "buys"]


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        age, income = int(rng.integers(18, 80)), round(float(rng.normal(50, 9)), 2)
        colour = ["red", "green", "blue"][rng.integers(3)]
        joined = f"20{rng.integers(10, 24)}-0{rng.integers(1, 10)}-1{rng.integers(10)}"
        yield [age, income, colour, joined, "yes" if age + income > 100 else "no"]


def write(path, lines, columns=COLUMNS, **options):
    with open(path, "w", newline="") as file:
        csv.writer(file, **options).writerows([columns, *lines])


@pytest.fixture
def run(minidl):
    """A command in a folder with train.csv and a run that was trained on it."""
    write("train.csv", rows(120))
    Path("config.yaml").write_text(TEXT.replace("model:", "#\nmodel:"))
    code, _, err = minidl("train config.yaml data.preprocessing=smooth_clip --quiet --out run")
    assert (code, err) == (0, "")
    return minidl


def table(text):
    return list(csv.reader(io.StringIO(text)))


def test_the_rows_are_predicted_as_load_predicts_them(run):
    code, out, err = run("predict run train.csv")
    assert (code, err) == (0, "")
    titles, *found = table(out)
    assert titles == ["prediction"] and len(found) == 120
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv("train.csv").drop(columns="buys")
    assert [row[0] for row in found] == list(load("run/model.npz").predict(frame))
    assert run("predict run/model.npz train.csv")[1] == out


def test_probabilities_and_kept_columns_stand_beside_the_predictions(run):
    ids = [f"00{i}" for i in range(119)] + ["9" * 19]
    lines = [[number, *row] for number, row in zip(ids, rows(120), strict=True)]
    write("ids.csv", lines, ["id", *COLUMNS])
    code, out, err = run("predict run ids.csv --proba --keep id --keep income")
    assert (code, err) == (0, "")
    titles, *found = table(out)
    assert titles == ["id", "income", "prediction", "probability_no", "probability_yes"]
    assert [row[0] for row in found] == ids
    assert [row[1] for row in found] == [str(row[2]) for row in lines]
    p = np.array([row[3:] for row in found], float)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-6)
    assert [row[2] for row in found] == ["yes" if one > 0.5 else "no" for one in p[:, 1]]


def test_columns_come_in_any_order_and_others_are_named_once(run):
    expected = run("predict run train.csv")[1]
    order = [3, 1, 0, 2]
    lines = [["x", *(row[j] for j in order), "y"] for row in rows(120)]
    write("other.csv", lines, ["more", *(COLUMNS[j] for j in order), "too"])
    code, out, err = run("predict run other.csv")
    assert (code, out) == (0, expected)
    assert err == "ignored columns that the model does not use: more, too\n"


def test_what_the_training_never_saw_is_counted(run):
    lines = [list(row) for row in rows(50)]
    for row in lines[:7]:
        row[2] = "violet"
    write("new.csv", lines)
    code, _, err = run("predict run new.csv --out p.csv")
    assert code == 0
    assert err == (
        "column 'colour': 7 of 50 rows hold a label that training did not see or keep, such as "
        "'violet'\n"
    )


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found(run, delimiter):
    write("other.csv", rows(120), delimiter=delimiter)
    assert run("predict run other.csv")[:2] == run("predict run train.csv")[:2]


def test_standard_input_and_gzip(run, monkeypatch):
    expected = run("predict run train.csv")
    content = Path("train.csv").read_bytes()
    Path("train.csv.gz").write_bytes(gzip.compress(content))
    assert run("predict run train.csv.gz") == expected
    for arguments in ("predict run", "predict run -"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
        assert run(arguments) == expected


def test_pieces_give_the_same_rows(run, monkeypatch):
    expected = run("predict run train.csv --proba")[1]
    monkeypatch.setattr(textfiles, "BLOCK", 64)
    monkeypatch.setitem(tables_of.__kwdefaults__, "rows", 1)
    assert run("predict run train.csv --proba")[1] == expected


def test_an_output_file_is_whole_and_kept(run):
    code, out, _ = run("predict run train.csv --out p.csv")
    assert (code, out) == (0, "120 predictions written to p.csv\n")
    assert Path("p.csv").read_text() == run("predict run train.csv")[1]
    Path("p.csv").write_text("mine")
    code, _, err = run("predict run train.csv --out p.csv")
    assert (
        code == 2 and err == "p.csv: exists and is kept; choose another, or replace it by --force\n"
    )
    assert Path("p.csv").read_text() == "mine"
    assert run("predict run train.csv --out p.csv --force")[0] == 0
    assert len(Path("p.csv").read_text().splitlines()) == 121


BAD = {
    "empty": (b"", "is empty"),
    "header": (b"age,income,colour,joined\n", "holds no row"),
    "ragged": (b"age,income,colour,joined\n1,2,red,2020-01-01\n1,2\n", "bad.csv:3: 2 cells"),
    "twice": (b"age,age,colour,joined\n1,2,red,2020-01-01\n", "two columns are named 'age'"),
    "nameless": (b"age,,colour,joined\n1,2,red,2020-01-01\n", "column 2 of 4 has no name"),
    "quote": (b'age,income,colour,joined\n1,2,"red,2020-01-01\n', "never closed"),
    "zero byte": (b"age,income,colour,joined\n1,2,r\0d,2020-01-01\n", "zero byte"),
    "text": (b"age,income,colour,joined\n1,x,red,2020-01-01\n", "bad.csv:2: column 'income'"),
    "missing": (b"age,colour\n1,red\n", "missing: income, joined"),
    "date": (b"age,income,colour,joined\n1,2,red,soon\n", "bad.csv:2: column 'joined'"),
    "infinite": (b"age,income,colour,joined\n1,inf,red,2020-01-01\n", "finite"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("out", ["", "--out p.csv"])
def test_a_bad_file_is_said_in_a_line_and_nothing_is_written(run, name, out):
    content, said = BAD[name]
    Path("bad.csv").write_bytes(content)
    before = sorted(os.listdir())
    code, printed, err = run(f"predict run bad.csv {out}")
    assert (code, printed) == (3, "") and said in err and len(err.splitlines()) == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        ("predict run gone.csv", 3, "gone.csv: no such file"),
        ("predict run .", 3, "is a folder"),
        ("predict run /dev/zero", 3, "/dev/zero: is not a file"),
        ("predict gone train.csv", 5, "gone"),
        ("predict run/run.json train.csv", 5, "run/run.json"),
        ("predict empty train.csv", 2, "empty: is neither a run folder nor a model file"),
        ("predict begun train.csv", 2, "begun: has no model yet"),
        ("predict run train.csv --keep idd", 3, "has no column 'idd' to keep"),
        ("predict run train.csv --out gone/p.csv", 5, "cannot write gone/p.csv"),
        ("evaluate run gone.csv", 3, "gone.csv: no such file"),
        ("evaluate run train.csv --target byes", 3, "did you mean 'buys'?"),
        ("evaluate run train.csv --target buys --target age", 2, "the model predicts one target"),
        ("evaluate run/model.npz", 2, "has no test part"),
        ("evaluate run gaps.csv", 3, "the target 'buys' is missing in all rows"),
        ("evaluate run other.csv", 3, "labels that the model does not know, such as 'perhaps'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, arguments, code, said):
    Path("begun").mkdir()
    Path("begun/lock").touch()
    Path("empty").mkdir()
    write("gaps.csv", [[*row[:4], ""] for row in rows(5)])
    write("other.csv", [[*row[:4], "perhaps"] for row in rows(5)])
    found, out, err = run(arguments)
    assert (found, out) == (code, "") and said in err and len(err.splitlines()) == 1


def test_a_pipe_without_an_end_is_refused(run):
    os.mkfifo("pipe")
    assert "pipe: is not a file" in run("predict run pipe")[2]
    code, _, err = run("predict run train.csv --out pipe --force")
    assert code == 2 and "pipe: is not a regular file and is kept" in err
    assert not os.path.isfile("pipe")


def test_a_reader_that_leaves_ends_it_quietly(run, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run("predict run train.csv")[0] == 141


# --- evaluate


def test_the_test_part_gives_the_figures_of_the_run(run):
    code, out, err = run("evaluate run --json")
    assert (code, err) == (0, "")
    found, results = json.loads(out), json.loads(Path("run/results.json").read_text())
    assert found["n_samples"] == results["n_test"] == 20
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(results["test_accuracy"])
    assert found["confusion_matrix"] == results["confusion_matrix"]
    text = run("evaluate run")[1]
    assert "accuracy" in text and "confusion matrix" in text and "to" in text


def test_a_file_is_measured_where_its_target_is_known(run):
    lines = [list(row) for row in rows(60, seed=1)]
    for row in lines[:9]:
        row[4] = ""
    write("more.csv", lines)
    code, out, err = run("evaluate run more.csv --json")
    assert code == 0 and err == "9 of 60 rows have no target 'buys': left out\n"
    assert json.loads(out)["n_samples"] == 51
    predicted = [row[0] for row in table(run("predict run more.csv")[1])[1:]]
    right = np.mean([p == row[4] for p, row in zip(predicted, lines, strict=True)][9:])
    assert json.loads(out)["metrics"]["accuracy"]["value"] == pytest.approx(right)


def test_several_labels_are_measured_from_a_file(minidl):
    from sklearn.datasets import make_multilabel_classification

    Path("config.yaml").write_text(
        "data: {name: multilabel_classification, n_samples: 80, test: 0}\n"
        "model: [linear: 8, relu, linear: auto]\nloss: sigmoid_cross_entropy\n"
        "train: {epochs: 2, batch_size: 16}\n"
    )
    assert minidl("train config.yaml --quiet --out run")[0] == 0
    X, y = make_multilabel_classification(30, n_classes=5, random_state=1)
    names = [f"x{j}" for j in range(20)]
    write("t.csv", np.hstack([y, X]).astype(int).tolist(), [*"01234", *names])
    code, out, err = minidl("evaluate run t.csv --json")
    assert (code, err) == (0, "") and len(json.loads(out)["classes"]) == 5
    right = (load("run/model.npz").predict(X) == y).all(axis=1).mean()
    assert json.loads(out)["metrics"]["accuracy"]["value"] == pytest.approx(right)
    write("t.csv", np.hstack([y[:, 1:], X]).astype(int).tolist(), [*"1234", *names])
    code, _, err = minidl("evaluate run t.csv")
    assert code == 3 and "t.csv: has no column '0' for the target; " in err


@pytest.mark.parametrize(
    "data, loss, expected",
    [
        ("{name: multilabel_classification, n_samples: 80}", "sigmoid_cross_entropy", "macro_f1"),
        ("diabetes", "{name: quantile, quantile: [0.1, 0.9]}", "coverage"),
        ("linnerud", "mse", "r2"),
    ],
    ids=["several labels", "quantiles", "several targets"],
)
def test_every_kind_of_model_is_measured(minidl, data, loss, expected):
    Path("config.yaml").write_text(
        f"data: {data}\nmodel: [linear: 8, relu, linear: auto]\nloss: {loss}\n"
        "train: {epochs: 2, batch_size: 16}\n"
    )
    assert minidl("train config.yaml --quiet --out run")[0] == 0
    code, out, err = minidl("evaluate run --json")
    assert (code, err) == (0, "")
    found, results = json.loads(out), json.loads(Path("run/results.json").read_text())
    assert found["metrics"][expected]["value"] == pytest.approx(results[f"test_{expected}"])
    assert len(found.get("classes", [])) == (5 if expected == "macro_f1" else 0)
    code, out, err = minidl("evaluate run")
    assert (code, err) == (0, "") and metric_name(expected) in out.splitlines()[2]


def test_a_regression_is_measured_and_predicted(minidl):
    write("train.csv", rows(120))
    Path("config.yaml").write_text(TEXT.replace("buys", "income") + "loss: mse\n")
    assert minidl("train config.yaml data.preprocessing=smooth_clip --quiet --out run")[0] == 0
    code, out, err = minidl("evaluate run --json")
    assert (code, err) == (0, "") and set(json.loads(out)["metrics"]) >= {"r2", "rmse", "mae"}
    code, out, _ = minidl("predict run train.csv")
    assert code == 0 and all(float(row[0]) < 100 for row in table(out)[1:])
    code, _, err = minidl("predict run train.csv --proba")
    assert code == 2 and "--proba is for classifiers" in err


def test_a_model_without_names_takes_its_columns_in_order(minidl):
    minidl("configs --copy digits")
    assert minidl("train digits.yaml train.epochs=1 --quiet --out run")[0] == 0
    from sklearn.datasets import load_digits

    X = load_digits().data[:30]
    np.savetxt("x.csv", X, "%g", ",")
    code, out, err = minidl("predict run x.csv")
    assert (code, err) == (0, "")
    assert [int(row[0]) for row in table(out)[1:]] == load("run/model.npz").predict(X).tolist()
    np.savetxt("x.csv", X[:, 1:], "%g", ",")
    code, _, err = minidl("predict run x.csv")
    assert code == 3 and "64" in err


def test_what_is_wider_than_a_terminal_is_left_out(minidl):
    Path("config.yaml").write_text(
        "data: {name: classification, n_samples: 600, n_classes: 30, n_informative: 8}\n"
        "model: [linear: auto]\ntrain: {epochs: 1}\n"
    )
    assert minidl("train config.yaml --quiet --out run")[0] == 0
    code, out, _ = minidl("evaluate run")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "confusion matrix: too wide for here" in out


@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
@pytest.mark.parametrize(
    "redirected, message",
    [("0<&-", "standard input: is empty"), ("0>kept", "standard input cannot be read: ")],
)
def test_standard_input_that_cannot_be_read_is_told(run, redirected, message):
    command = f"exec {shlex.quote(sys.executable)} -m minidl predict run {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_a_model_of_a_table_with_decimal_commas_predicts_one_with_points(minidl):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(120), columns=COLUMNS)
    frame.to_csv("german.csv", sep=";", decimal=",", index=False)
    frame.to_csv("plain.csv", index=False)
    Path("config.yaml").write_text(TEXT.replace("train.csv", 'german.csv, decimal: ","'))
    options = "data.delimiter=; data.preprocessing=smooth_clip --quiet --out run"
    assert minidl(f"train config.yaml {options}")[::2] == (0, "")
    code, expected, err = minidl("predict run german.csv --proba")
    assert (code, err) == (0, "")
    assert minidl("predict run plain.csv --proba") == (0, expected, "")


FORMS = [("cp1252", ";", ","), ("utf-8", ",", "."), ("utf-8", ";", ","), ("utf-16", "\t", ".")]


@pytest.mark.parametrize("trained", FORMS[:3])
@pytest.mark.parametrize("names", [["größe", "stadt", "preis"], ["size", "town", "price"]])
def test_a_file_may_be_written_otherwise_than_the_training_file(minidl, trained, names):
    def put(encoding, delimiter, decimal):
        lines = [names, *([f"{i}{decimal}5", ["Köln", "Málaga"][i % 2], str(i)] for i in range(40))]
        text = "\n".join(map(delimiter.join, lines))
        Path("table.csv").write_text(text, encoding=encoding)

    put(*trained)
    assert minidl(f"init table.csv --target {names[2]} --out config.yaml --force")[0] == 0
    assert minidl("train config.yaml train.epochs=1 --quiet --out run")[0] == 0
    expected = minidl("predict run table.csv"), minidl("evaluate run table.csv")
    assert [found[::2] for found in expected] == [(0, ""), (0, "")]
    for form in FORMS:
        put(*form)
        assert (minidl("predict run table.csv"), minidl("evaluate run table.csv")) == expected


def test_numbers_that_any_decimal_mark_reads_keep_that_of_the_training_file(minidl):
    lines = ["a;b;y", *(f"{i},5;{i}.000;{i}" for i in range(40))]
    Path("table.csv").write_text("\n".join(lines))
    assert minidl("init table.csv --target y --out config.yaml --force")[0] == 0
    assert minidl("train config.yaml train.epochs=1 --quiet --out run")[0] == 0
    Path("groups.csv").write_text("a;b\n1;1.000\n")
    Path("points.csv").write_text("a;b\n1.0;1000\n")
    expected = minidl("predict run groups.csv")
    assert expected[::2] == (0, "") and minidl("predict run points.csv") == expected


def test_an_encoding_that_is_no_extension_of_ascii_is_that_of_the_training_file(minidl):
    lines = ["a,b,y", *(f"{i},{'pq'[i % 2]},{i}" for i in range(40))]
    Path("table.csv").write_text("\n".join(lines))
    assert minidl("init table.csv --target y --out config.yaml --force")[0] == 0
    Path("table.csv").write_text("\n".join(lines), encoding="cp037")
    run = "train config.yaml train.epochs=1 data.encoding=cp037 --quiet --out run"
    assert minidl(run)[0] == 0
    assert minidl("predict run table.csv")[::2] == (0, "")
