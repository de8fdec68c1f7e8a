"""Exported models predict what the model predicts, in each of the formats."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import random_models
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from minidl import (
    MSE,
    Linear,
    Predictor,
    ReLU,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    load,
    save,
)
from minidl.cli import main
from minidl.config import load_config, parse
from minidl.data.augmentation import ShiftedViews
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.schema import Schema
from minidl.errors import ConfigError
from minidl.estimators import MLPClassifier, MLPRegressor
from minidl.export import FORMATS, ExportError, export_model, lowering, predicted
from minidl.export.lowering import columns_of, made_up_rows
from minidl.export.to_onnx import given_inputs
from minidl.layers import LAYERS
from minidl.losses import LOSSES
from minidl.shipped import shipped_configs
from minidl.specs import build_layers, made_from

TEXT, DATA = "", os.environ.get("MINIDL_DATA_DIR")
onnxruntime = pytest.importorskip("onnxruntime")


def runtime(path, rows, whole=None):
    """What onnxruntime, and not the evaluator that checked the file, makes of it."""
    given = {"X": rows.astype(np.float32)} if whole is None else given_inputs(whole, rows)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def relative(found, expected, in_rows=True):
    """The largest difference, relative to the largest number in its row, or in all rows."""
    differences = np.abs(found.reshape(expected.shape) - expected)
    return (differences / np.abs(expected).max(axis=-1 if in_rows else None, keepdims=True)).max()


def assert_agrees(folder, whole, formats=FORMATS):
    for name in formats:
        assert export_model(whole, folder / name, name) in (None, pytest.approx(0, abs=1e-5))
    rows = made_up_rows(whole, 200)
    plain = [column.kind != "date" for column in columns_of(whole)]
    rows[:, plain] = rows[:, plain].astype(np.float32)
    if "onnx" in formats:
        found = runtime(folder / "onnx", rows, whole)
        expected = predicted(whole, rows)
        assert relative(list(found.values())[-1], expected, whole.classes is not None) < 1e-5
        if whole.classes is not None and expected.shape[1] > 1:
            assert found["label"].shape[0] == len(rows)


@pytest.mark.parametrize("seed", range(8))
def test_random_stacks(tmp_path, seed):
    whole, _ = random_models.predictor(np.random.default_rng(100 + seed))
    assert_agrees(tmp_path, whole)


@pytest.mark.slow
def test_50_random_stacks(tmp_path):
    for seed in range(50):
        whole, _ = random_models.predictor(np.random.default_rng(seed))
        assert_agrees(tmp_path, whole)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_without_any_likely_label_can_be_exported(tmp_path, format):
    layer = Linear(2, 3, rng=0)
    layer.b[:] = -500.0  # its sigmoid is 0 in float32
    save(Sequential([layer]), SigmoidCrossEntropy(), tmp_path / "model.npz")
    whole = load(tmp_path / "model.npz")
    assert not whole.predict_proba(np.ones((1, 2))).any()
    assert export_model(whole, tmp_path / "file", format) in (None, 0.0)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_can_be_exported(tmp_path, name):
    inside = {"layers": [{"name": "tanh"}]} if name == "residual" else {}
    own = {"n_out": 5} if name == "linear" else {}
    specs = [{"name": name, **inside, **own}, {"name": "linear", "n_out": 3}]
    whole, _ = random_models.predictor(np.random.default_rng(1), specs)
    assert_agrees(tmp_path, whole, ("onnx", "python"))
    assert type(whole.model.layers[0]) in lowering.LOWERED


def built(config, n_features=20, n_outputs=4):
    """A model of a config's layers on made-up columns, a few of each kind."""
    rng = np.random.default_rng(0)
    name, loss = config.data.preprocessing.name, config.loss.build()
    categories = [("a", "b", "c")] * 3 + [()] * (n_features - 3)
    X = rng.normal(size=(300, n_features))
    if PREPROCESSINGS[name].takes_missing:
        X[:, :3] = rng.integers(0, 3, (300, 3))
        X[rng.random(X.shape) < 0.05] = np.nan
        names = [f"c{i}" for i in range(n_features)]
        options = {"schema": Schema.plain(names, categories)}
    else:
        options = {}
    fitted = PREPROCESSINGS[name](**options).fit(X)
    classes = None if loss.task == "regression" else list(range(n_outputs))
    specs = [choice.spec for choice in config.model]
    for spec in specs:  # the widths are what takes time here
        if isinstance(spec.get("n_out"), int):
            spec["n_out"] = min(spec["n_out"], 64)
    layers = build_layers(
        specs, fitted.n_out, n_outputs, init=rng, noise=rng, dtype=np.dtype(config.train.dtype)
    )
    views = ShiftedViews((4, 5, 1), 1) if config.evaluation.shifts else None
    return Predictor(Sequential(layers), loss, fitted, n_features, classes, views=views)


@pytest.mark.parametrize("name", shipped_configs())
def test_the_layers_of_every_shipped_config(tmp_path, name):
    text = shipped_configs()[name].read_text(encoding="utf-8")
    config = parse(text, name)
    n_outputs = 1 if config.loss.build().task == "regression" else 4
    assert_agrees(tmp_path, built(config, n_outputs=n_outputs))


def stand_in(name):
    """Write some rows for a config whose data are not here; return what to override."""
    rng, n = np.random.default_rng(0), 1000
    if "mnist" in name:
        whole = np.load(Path(DATA, "mnist.npz")) if DATA else {}
        x = whole["x_train"][:n] if DATA else rng.integers(0, 256, (n, 28, 28), np.uint8)
        y = whole["y_train"][:n] if DATA else np.arange(n, dtype=np.uint8) % 10
        for part, size in (("train", n), ("t10k", n // 5)):
            for kind, array in (("images-idx3", x[:size]), ("labels-idx1", y[:size])):
                shape = b"".join(k.to_bytes(4, "big") for k in array.shape)
                head = bytes([0, 0, 8, array.ndim]) + shape
                Path(f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
        np.savez("mnist.npz", x_train=x, y_train=y, x_test=x[: n // 5], y_test=y[: n // 5])
        path = "train-images-idx3-ubyte" if name == "fashion_mnist" else "mnist.npz"
        return [f"data.path={path}", "data.validation=100"]
    if name in ("california", "covtype"):
        n_columns, kind = {"california": (8, "piecewise_linear"), "covtype": (54, "smooth_clip")}[
            name
        ]
        X = np.exp(rng.normal(2, 1, (n, n_columns)))
        y = rng.permutation(n) % 7 if name == "covtype" else X[:, 0] + 0.5
        np.savez("table.npz", X=X, y=y)
        return [f"data={{path: table.npz, features: X, target: y, preprocessing: {kind}}}"]
    if name.startswith("tabular"):
        x, town, day = rng.normal(2, 1, n), rng.integers(0, 4, n), rng.integers(0, 9999, n)
        y = 50 * x + 10 * town + rng.normal(0, 30, n)
        shown = y > 100 if name == "tabular_classification" else y.round(3)
        days = np.datetime64("2000-01-01") + day
        lines = [
            f"{a:.6g},{'ABCD'[b]},{c},{d}" for a, b, c, d in zip(x, town, days, shown, strict=True)
        ]
        Path("table.csv").write_text("\n".join(["x,town,day,target", *lines]) + "\n")
        return ["data.path=table.csv"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_exported_as_it_is_trained(minidl, name):
    """At full width, after an epoch, on the first rows of its data."""
    command = f"train {name} train.epochs=1 --out run --quiet"
    given = [shlex.quote(option) for option in stand_in(name)]
    assert minidl(" ".join([command, *given])) == (0, "", "")
    for form in FORMATS:
        code, out, err = minidl(f"export run --format {form} --out {form}")
        assert (code, err) == (0, "") and float(out.split(" by ")[1].split()[0]) < 1e-5
    whole, data = load("run/model.npz"), load_config(Path("run/config.yaml")).data.dataset.build()
    rows = np.array(data.X[:300], float)
    plain = [column.kind != "date" for column in columns_of(whole)]
    rows[:, plain] = rows[:, plain].astype(np.float32)
    found = runtime("onnx", rows, whole)
    in_rows = whole.classes is not None
    assert relative(list(found.values())[-1], predicted(whole, rows), in_rows) < 1e-5


def classifier(classes=("a", "b", "c")):
    X = load_iris().data
    fitted = PREPROCESSINGS["standard"]().fit(X)
    model = Sequential([Linear(4, 8, rng=0), ReLU(), Linear(8, len(classes), rng=1)])
    return Predictor(model, SoftmaxCrossEntropy(), fitted, 4, list(classes)), X


NAMES, LABELS = ["label", 'a "b\\\\?', "minidl_0"], ["red", "blå 🙂", "*/"]


def with_dates(name):
    """A model of a number, a category and a date, and rows with dates of 800 years."""
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [rng.normal(size=300), rng.integers(0, 3, 300), rng.uniform(-1.2e10, 1.3e10, 300)]
    )
    X[:, 2] = np.where(rng.random(300) < 0.5, np.floor(X[:, 2]), np.floor(X[:, 2] / 86400) * 86400)
    X[rng.random(X.shape) < 0.1] = np.nan
    fitted = PREPROCESSINGS[name](schema=Schema.plain(NAMES, [(), LABELS, ()], [2])).fit(X)
    model = Sequential([Linear(fitted.n_out, 3, rng=0)])
    return Predictor(model, SoftmaxCrossEntropy(), fitted, 3, ["x", "y", "z"], NAMES), X


@pytest.mark.parametrize("name", ["smooth_clip", "quantile", "piecewise_linear", "table_features"])
def test_categories_and_dates(tmp_path, name):
    whole, X = with_dates(name)
    for form in FORMATS:
        for start in range(0, 300, 100):
            found = export_model(whole, tmp_path / form, form, X[start : start + 100])
            assert found is None or found < 1e-5


def test_equal_models_are_equal_files(tmp_path):
    (one, _), (other, _) = with_dates("table_features"), with_dates("table_features")
    for format in FORMATS:
        export_model(one, tmp_path / "one", format)
        export_model(other, tmp_path / "other", format)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes(), format


@pytest.mark.parametrize("name", ["smooth_clip", "quantile", "piecewise_linear", "table_features"])
def test_categories_alone(tmp_path, name):
    X = np.random.default_rng(0).integers(0, 3, (50, 1)).astype(np.float64)
    fitted = PREPROCESSINGS[name](schema=Schema.plain(["a"], [LABELS])).fit(X)
    model = Sequential([Linear(fitted.n_out, 2, rng=0)])
    whole = Predictor(model, SoftmaxCrossEntropy(), fitted, 1, ["x", "y"])
    assert all((export_model(whole, tmp_path / form, form) or 0) < 1e-5 for form in FORMATS)


def test_a_table_is_given_to_onnx_column_by_column_as_it_is(tmp_path):
    whole, _ = with_dates("table_features")
    export_model(whole, tmp_path / "m.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    inputs = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    assert inputs == {
        "label_": ("tensor(float)", ["rows", 1]),  # the output has that name
        NAMES[1]: ("tensor(string)", ["rows", 1]),
        "minidl_0_": ("tensor(double)", ["rows", 1]),
    }
    known = np.float32([[0.5], [np.nan], [2.0]])
    texts = np.array([["blå 🙂"], ["red"], ["never seen"]], dtype=object)
    dates = np.array(["2024-02-29T12:30", "1969-12-31", "NaT"], "datetime64[s]")[:, None]
    seconds = np.where(np.isnat(dates), np.nan, dates.astype(np.int64))
    given = {"label_": known, NAMES[1]: texts, "minidl_0_": seconds}
    label, p = session.run(["label", "probabilities"], given)
    rows = np.column_stack([known.ravel(), [1, 0, np.nan], seconds.ravel()])
    expected = predicted(whole, rows)
    assert np.allclose(p, expected, rtol=1e-5, atol=1e-7)
    assert label.tolist() == [whole.classes[k] for k in expected.argmax(1)]


@pytest.mark.parametrize("classes", [("a", "b", "ü"), (3, 1, 2), (0.5, 1.5, 2.5)])
def test_labels_are_those_of_the_model(tmp_path, classes):
    whole, X = classifier(classes)
    X = X.astype(np.float32).astype(float)
    export_model(whole, tmp_path / "m.onnx", "onnx", X)
    found = runtime(tmp_path / "m.onnx", X)
    assert found["label"].tolist() == whole.predict(X).tolist()
    assert found["probabilities"].shape == (150, 3)
    export_model(whole, tmp_path / "m.py", "python", X)
    code = "import json, numpy, m; print(json.dumps(m.predict(numpy.load('x.npy')).tolist()))"
    np.save(tmp_path / "x.npy", X)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert json.loads(run.stdout) == whole.predict(X).tolist()


def test_any_number_of_rows(tmp_path):
    whole, X = classifier()
    export_model(whole, tmp_path / "m.onnx", "onnx")
    for n in (1, 2, 150):
        assert len(runtime(tmp_path / "m.onnx", X[:n])["label"]) == n


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_c_file_tests_itself(tmp_path):
    whole, X = classifier()
    assert export_model(whole, tmp_path / "m.c", "c", X) < 1e-6
    flags = ["-Wall", "-Wextra", "-Werror", "-std=c99", "-pedantic"]
    command = ["cc", *flags, "-DMINIDL_TEST", "m.c", "-o", "m", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    shown = subprocess.run(["./m"], cwd=tmp_path, check=True, capture_output=True, text=True)
    found = np.array(shown.stdout.split(), float).reshape(-1, 3)
    assert relative(found, predicted(whole, X[:100].astype(np.float32))) < 1e-6
    text = (tmp_path / "m.c").read_text()
    assert "malloc" not in text and text.count("#include") == 2
    text = text.replace(
        "static const double expected[] = {\n0.", "static const double expected[] = {\n9."
    )
    (tmp_path / "m.c").write_text(text)
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run(["./m"], cwd=tmp_path, capture_output=True).returncode == 1


def test_what_cannot_be_exported_is_named(tmp_path):
    class Own(ReLU):
        pass

    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, 2)))
    with pytest.raises(ConfigError, match="the layer Own cannot be exported"):
        export_model(Predictor(Sequential([Own()]), MSE(), fitted, 2), tmp_path / "m", "c")
    model = Predictor(Sequential([Linear(2, 1, rng=0)]), MSE(), fitted, 2)
    with pytest.raises(ConfigError, match="format must be one of onnx, c, python, got 'pmml'"):
        export_model(model, tmp_path / "m", "pmml")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_predicts_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(lowering.LOWERED, ReLU, lambda layer, x: x)
    whole, X = classifier()
    for name in FORMATS:
        with pytest.raises(ExportError, match=r"differ from those of the model by"):
            export_model(whole, tmp_path / "m", name, X)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    with pytest.raises(ConfigError, match=r'pip install "minidl\[onnx\]"'):
        export_model(classifier()[0], tmp_path / "m.onnx", "onnx")


def test_the_command(tmp_path, capsys):
    whole, _ = classifier()
    whole.save(tmp_path / "model.npz")
    given = ["export", str(tmp_path / "model.npz"), "--format", "python"]
    out = tmp_path / "model.py"
    assert main([*given, "--out", str(out)]) == 0
    assert "its predictions differ from the model's by" in capsys.readouterr().out
    assert main([*given, "--out", str(out)]) == 2  # it exists
    assert main([*given, "--out", str(out), "--force"]) == 0
    assert main(["export", str(tmp_path / "no.npz")]) == 5


def test_a_run_is_checked_on_its_own_rows(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "iris", "train.epochs=1", "--out", str(run), "--quiet"]) == 0
    for name in FORMATS:
        assert main(["export", str(run), "--format", name, "--out", str(tmp_path / name)]) == 0
    assert "made-up" not in capsys.readouterr().err


def test_numbers_that_float32_cannot_hold_are_told(tmp_path, capsys):
    lines = ["x,y", *(f"{5e6 + i / 64},{i}" for i in range(60))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    run, config = str(tmp_path / "run"), tmp_path / "c.yaml"
    config.write_text(
        "data: {path: a.csv, target: y}\nmodel: [linear: auto]\nloss: mse\ntrain: {epochs: 3}\n"
    )
    assert main(["train", str(config), "--out", run, "--quiet"]) == 0
    for name, said in (("onnx", "ONNX takes numbers in float32: rounding"), ("python", "")):
        assert main(["export", run, "--format", name, "--out", str(tmp_path / name)]) == 0
        err = capsys.readouterr().err
        assert err.startswith(said) and err.count("\n") == bool(said)


def test_losses_of_all_kinds(tmp_path):
    for name in LOSSES:
        loss = made_from({"name": name}, LOSSES)
        n_outputs = 3 if loss.task != "regression" else 2
        fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, 2)))
        classes = None if loss.task == "regression" else ["a", "b", "c"]
        model = Sequential([Linear(2, n_outputs, rng=0)])
        assert_agrees(tmp_path, Predictor(model, loss, fitted, 2, classes), ("onnx", "python"))


def estimators():
    X, y = load_iris(return_X_y=True)
    options = {"max_iter": 5, "random_state": 0}
    layers = [{"layer_norm": {}}, {"linear": 6}, "gelu", {"linear": "auto"}]
    yield MLPClassifier(hidden_layer_sizes=(8,), **options), X, y
    yield MLPClassifier(layers=layers, **options), X, np.array(["a", "b", "ü"])[y]
    yield MLPClassifier(**options), X, y > 0
    yield MLPRegressor(hidden_layer_sizes=(8,), **options), X, X[:, 0] * 3
    yield MLPRegressor(hidden_layer_sizes=(8,), **options), X, X[:, :2] * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(5))
def test_skl2onnx_converts_the_estimators(place):
    skl2onnx = pytest.importorskip("skl2onnx")
    from minidl.export.to_skl2onnx import register

    register()
    estimator, X, y = list(estimators())[place]
    for model in (estimator, make_pipeline(StandardScaler(), estimator)):
        model.fit(X, y)
        is_classifier = hasattr(model, "predict_proba")
        options = {"zipmap": False} if is_classifier else None
        expected = model.predict_proba(X) if is_classifier else model.predict(X)
        for rows in (X.astype(np.float32), X):
            found = skl2onnx.to_onnx(model, rows[:1], options=options, target_opset=17)
            session = onnxruntime.InferenceSession(found.SerializeToString())
            answers = session.run(None, {session.get_inputs()[0].name: rows})
            assert relative(answers[-1], expected, is_classifier) < 1e-5
            if is_classifier:
                assert answers[0].tolist() == model.predict(X).tolist()


@pytest.mark.filterwarnings("ignore")
def test_emlearn_converts_the_estimators(tmp_path, monkeypatch):
    with np.errstate():  # importing it changes NumPy's handling of errors for good
        emlearn = pytest.importorskip("emlearn")
    monkeypatch.chdir(tmp_path)  # where it compiles
    X, y = load_iris(return_X_y=True)
    clf = MLPClassifier(hidden_layer_sizes=(8,), max_iter=30, random_state=0).fit(X, y)
    assert list(emlearn.convert(clf, method="inline").predict(X)) == clf.predict(X).tolist()
    clf.set_params(layers=[{"linear": 8}, "tanh", {"linear": "auto"}]).fit(X, y)
    with pytest.raises(AttributeError, match="out_activation_"):  # its activation is no relu
        emlearn.convert(clf, method="inline")
