"""Model files with a right hash whose contents were changed: refused, or harmless.

Honest models of all kinds are saved and loaded; then each field of their documents and arrays is
changed in many ways, one after another.
"""

import copy
import hashlib
import json
import tracemalloc
import warnings
import zipfile
from io import BytesIO

import numpy as np
import pytest
import random_models

from minidl import Linear, Predictor, ReLU, Residual, Sequential, load
from minidl.archive import read_archive
from minidl.data.augmentation import ShiftedViews
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.schema import Schema
from minidl.errors import CheckpointError
from minidl.estimators import MLPClassifier
from minidl.losses import MSE, SoftmaxCrossEntropy

MAX_MEMORY = 2**26  # beside the size of the file


def forged(path, arrays, document, *, kind="model", version=2):
    """Write an archive of anything, with the hash that it should have."""
    manifest = {"arrays": list(arrays), "document": document, "kind": kind, "version": version}
    text = json.dumps(manifest).encode()
    digest = hashlib.sha256(text)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("document.json", text)
        for name, array in arrays.items():
            if isinstance(array, np.ndarray):
                buffer = BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=False)
                head, content = array.dtype.str, array.tobytes()
                digest.update(json.dumps([name, head, array.shape]).encode() + content)
                file.writestr(f"{name}.npy", buffer.getvalue())
            else:  # (dtype, shape) of an array without any bytes
                header = {"descr": array[0], "fortran_order": False, "shape": array[1]}
                buffer = BytesIO()
                np.lib.format.write_array_header_1_0(buffer, header)
                digest.update(json.dumps([name, *array]).encode())
                file.writestr(f"{name}.npy", buffer.getvalue())
        file.writestr("sha256", digest.hexdigest())
    return path


def outcome(path):
    """Load, and predict a row if that works; return the error or None."""
    tracemalloc.start()
    try:
        found = load(path)
    except CheckpointError as error:
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + MAX_MEMORY
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
        return error
    finally:
        tracemalloc.stop()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        X = np.full((3, found.n_features), None if found.preprocessing.takes_missing else 0.0)
        assert len(found.predict(X)) == 3
        if found.classes is not None:
            assert len(found.predict_proba(X)) == 3
        elif found.conformal_scores is not None:
            assert len(found.predict_interval(X)) == 3
    return None


# ---- honest models


def assert_returns(tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole, X = random_models.predictor(rng)
    whole.save(tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    with np.errstate(all="ignore"):
        outputs = [each.loss_function.predict(each._outputs(X)) for each in (whole, again)]
        labels = [each.predict(X) for each in (whole, again)]
    assert outputs[0].tobytes() == outputs[1].tobytes()
    assert labels[0].dtype == labels[1].dtype
    np.testing.assert_array_equal(*labels)
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()


@pytest.mark.parametrize("part", range(4))
def test_200_random_models_are_saved_and_loaded(tmp_path, part):
    for seed in range(50 * part, 50 * part + 50):
        assert_returns(tmp_path, seed)


@pytest.mark.slow
def test_5000_random_models_are_saved_and_loaded(tmp_path):
    for seed in range(1000, 6000):
        assert_returns(tmp_path, seed)


def test_names_and_labels_are_not_limited_by_the_document(tmp_path):
    n = 60_000
    names = [f"a column with a rather long name, number {i}" for i in range(n)]
    classes = [f"a class with a rather long name, number {i}" for i in range(n)]
    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, n)))
    model = Sequential([ReLU()])
    Predictor(model, SoftmaxCrossEntropy(), fitted, n, classes, names).save(tmp_path / "m.npz")
    found = load(tmp_path / "m.npz")
    assert found.feature_names == names and found.classes == classes


def test_one_long_label_does_not_pad_the_others(tmp_path):
    n = 60_000
    classes = [str(i) for i in range(n - 1)] + ["x" * 10_000]
    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, n)))
    whole = Predictor(Sequential([ReLU()]), SoftmaxCrossEntropy(), fitted, n, classes)
    whole.save(tmp_path / "m.npz")
    tracemalloc.start()
    found = load(tmp_path / "m.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
    assert found.predict(np.eye(1, n, n - 1)).tolist() == ["x" * 10_000]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": ["a", "a"]}, "different from each other"),
        ({"classes": ["a", 1]}, "all texts, all numbers"),
        ({"classes": [1.0, float("nan")]}, "finite"),
        ({"classes": [1, 2**64]}, "below 2"),
        ({"classes": ["a", "x" * 10_001]}, "at most 10000 characters"),
        ({"classes": ["a", "\ud800"]}, "surrogates not allowed|not Unicode"),
        ({"classes": ["a", "b", "c"]}, "3 classes for 2 outputs"),
        ({"feature_names": ["a"]}, "must be 2, one for each"),
        ({"feature_names": ["a", "\ud800"]}, "surrogates not allowed|not Unicode"),
        ({"loss_function": MSE()}, "classes do not fit"),
        ({"loss_function": SoftmaxCrossEntropy(class_weight=[1.0])}, "1 class weights"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(change, message):
    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, 2)))
    fields = {"model": Sequential([ReLU()]), "loss_function": SoftmaxCrossEntropy()}
    fields |= {"preprocessing": fitted, "n_features": 2, "classes": ["a", "b"]} | change
    with pytest.raises(ValueError, match=message):
        Predictor(**fields).check()


def test_layers_too_deep_are_refused_before_training():
    layer = ReLU()
    for _ in range(40):
        layer = Residual([layer])
    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="at most 32 deep"):
        Predictor(Sequential([layer]), MSE(), fitted, 2).check()


# ---- forgeries of every field

DEEP = "x"
for _ in range(50):
    DEEP = [DEEP]
VALUES = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e308, "", "x",
    "linear", "ü\u202e", "x" * 100_000, [], {}, [[]], {"name": "relu"}, [1, 2], ["a", "b"], [None],
    {"a": 1}, DEEP, ["x"] * 5000, "float32," * 20_000,
]  # fmt: skip


def paths_of(tree, path=()):
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield (*path, key)
            yield from paths_of(tree[key], (*path, key))


def put(tree, path, value):
    tree = copy.deepcopy(tree)
    branch = tree
    for key in path[:-1]:
        branch = branch[key]
    if value is ...:
        del branch[path[-1]]
    else:
        branch[path[-1]] = value
    return tree


def changed_arrays(array):
    """An array in many other forms."""
    yield from (array.ravel()[:0], array.reshape(1, -1), np.concatenate([array.ravel()] * 2))
    yield from (array.ravel()[:-1], np.zeros((0, 2**20)))
    if array.dtype.kind not in "US":
        with np.errstate(all="ignore"):
            yield from (array.astype("f2"), array.astype(">f4"))
    yield (array.dtype.str, (10**12, 0))
    yield ("<U2000000000", (0,))
    for value in (-1, 0, 2**62, -(2**63), np.nan, np.inf, 1e300, -1e300):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not (array.dtype.kind == "i" and abs(value) != abs(value) // 1):
                yield np.full(array.shape, value).astype(array.dtype)
            yield np.full(array.shape, value)
    yield np.full(array.shape, "x" * 100)


def base(kind):
    rng = np.random.default_rng(7)
    if kind == "image":
        fitted = PREPROCESSINGS["global_standard"]().fit(rng.normal(size=(9, 12)))
        views = ShiftedViews((3, 4, 1), 1)
        model = Sequential([Linear(12, 2, rng=rng)])
        dates = np.array(["2020-01-01", "2021-01-01"], "M8[ns]")
        return Predictor(model, SoftmaxCrossEntropy(), fitted, 12, dates, views=views)
    X = rng.integers(0, 2, (20, 3)).astype(float)
    if kind == "table_features":
        X[:, 0], X[0, 2] = rng.normal(size=20), np.nan
        labels = [(), tuple("abcdefghijklmnop"), ()]
        X[:, 1] = np.arange(20) % 16
        fitted = PREPROCESSINGS[kind](Schema.plain(["x", "y", "z"], labels)).fit(X)
        model = Sequential([Linear(fitted.n_out, 1, rng=rng)])
        scores = np.linspace(0.0, 2.0, 20)[:, None]
        return Predictor(model, MSE(), fitted, 3, None, list("xyz"), conformal_scores=scores)
    fitted = PREPROCESSINGS[kind](schema=Schema.plain("xyz", [(), ("a", "b"), ()])).fit(X)
    specs = [
        {"name": "residual", "layers": [{"name": "batch_norm"}, {"name": "dropout", "p": 0.1}]},
        {"name": "linear", "n_out": 2},
        {"name": "parametric"},
    ]
    layers = random_models.build_layers(
        specs, fitted.n_out, 2, init=rng, noise=rng, dtype=np.dtype("f4")
    )
    loss_function = MSE(center=[1.0, 2.0], scale=[1.0, 3.0])
    notes = {"curve": np.arange(3.0), "kind": "x"}
    names = [f"name {i}" * 10 for i in range(3)]
    return Predictor(Sequential(layers), loss_function, fitted, 3, None, names, notes=notes)


KINDS = ["image", "smooth_clip", "quantile", "piecewise_linear", "table_features"]


def forge_all(folder, kind, n_values):
    """Change each field in `n_values` of the ways; return how many forgeries were refused."""
    base(kind).save(folder / "model.npz")
    arrays, document = read_archive(folder / "model.npz", kind="model", newest_version=2)
    path, refused, rng = folder / "forged.npz", 0, np.random.default_rng(0)
    for place in paths_of(document):
        values = rng.permutation(len(VALUES))[:n_values]
        for value in (..., *(VALUES[i] for i in values)):
            error = outcome(forged(path, arrays, put(document, place, value)))
            refused += error is not None
    for name, array in arrays.items():
        rest = {key: arrays[key] for key in arrays if key != name}
        refused += outcome(forged(path, rest, document)) is not None
        others = list(changed_arrays(array))
        for i in rng.permutation(len(others))[:n_values]:
            refused += outcome(forged(path, {**rest, name: others[i]}, document)) is not None
    return refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_field_is_refused_or_harmless(tmp_path, kind):
    assert forge_all(tmp_path, kind, 4) > 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_change_of_every_field_is_refused_or_harmless(tmp_path, kind):
    assert forge_all(tmp_path, kind, 1000) > 300


def deep(document, arrays):
    layers = [{"name": "relu"}]
    for _ in range(100):
        layers = [{"name": "residual", "layers": layers}]
    document["layers"] = layers


def zeros_of(*shape):
    return ("<f8", shape)  # of an array that has no bytes


HOSTILE = {
    "counts whose sum wraps to 0": ("smooth_clip", lambda d, a: a.update(
        {"fitted.categories": np.array([2**62] * 4), "fitted.n_features": np.array(4)})),
    "a count beyond memory": ("quantile", lambda d, a: a.update(
        {"fitted.categories": np.array([0, 2**40, 0])})),
    "a count below 0": ("quantile", lambda d, a: a.update(
        {"fitted.categories": np.array([4, -2, 0])})),
    "knots of nothing": ("quantile", lambda d, a: a.update(
        {"fitted.knots": zeros_of(10**12, 0)})),
    "knots of no column": ("quantile", lambda d, a: a.update({"fitted.knots": zeros_of(0, 2)})),
    "layers 100 deep": ("quantile", deep),
    "a dtype of a million characters": ("quantile", lambda d, a: d.update(dtype="f4," * 333_333)),
    "a center of another length": ("quantile", lambda d, a: d["loss"].update(center=[1.0] * 3)),
    "a scale of another shape": ("quantile", lambda d, a: d["loss"].update(scale=[[1.0], [2.0]])),
    "weights of other classes": ("image", lambda d, a: d["loss"].update(class_weight=[1.0] * 3)),
    "mixed classes": ("image", lambda d, a: (a.pop("classes.counts"), d.update(classes=["a", 1]))),
    "equal classes": ("image", lambda d, a: a.update({"classes.counts": np.array([5, 5])})),
    "a class that is not a number": ("image", lambda d, a: (
        d.pop("classes"), a.pop("classes.counts"),
        a.update({"classes-numbers": np.array([1.0, np.nan])}))),
    "a bias that is a text": ("image", lambda d, a: d["layers"][0].update(bias="yes")),
    "a center for other outputs": ("table_features", lambda d, a: d["loss"].update(
        center=[1.0] * 3, scale=[1.0] * 3)),
    "scores of other outputs": ("table_features", lambda d, a: a.update(
        conformal_scores=np.zeros((20, 3)))),
    "a hundred layers on a million features": ("image", lambda d, a: (
        d.update(n_features=2**20, views=None, layers=[{"name": "relu"}] * 100),
        a.update({"params": np.zeros(0, "f4"), "fitted.n_features": np.array(2**20)}))),
    "images without pixels": ("image", lambda d, a: d["views"].update(image_shape=[12, 1, 0])),
    "images below 0": ("image", lambda d, a: d["views"].update(image_shape=[3, 4, -1])),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_error(tmp_path, name):
    kind, change = HOSTILE[name]
    base(kind).save(tmp_path / "model.npz")
    arrays, document = read_archive(tmp_path / "model.npz", kind="model", newest_version=2)
    change(document, arrays)
    error = outcome(forged(tmp_path / "forged.npz", arrays, document))
    assert error is not None
    assert ("numbers of a row" in str(error)) == (name == "a hundred layers on a million features")


def test_means_of_labels_survive_a_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = [(f"label {i}" for i in range(150)), ()]
    schema = Schema.plain(["a", "b"], [tuple(each) for each in labels])
    X = np.column_stack([rng.integers(0, 150, 400), rng.normal(size=400)])
    fitted = PREPROCESSINGS["table_features"](schema).fit(X)
    model = Sequential([Linear(fitted.n_out, 1, rng=0)])
    whole = Predictor(model, MSE(), fitted, 2, None, ["a", "b"])
    whole.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").outputs(X).tobytes() == whole.outputs(X).tobytes()


@pytest.mark.filterwarnings("ignore")
def test_an_estimator_with_a_long_history_is_saved(tmp_path):
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    clf = MLPClassifier(hidden_layer_sizes=(3,), max_iter=2).fit(X, y)
    clf.history_ = [dict(clf.history_[0], epoch=i, train_loss=1 / (i + 1)) for i in range(20_000)]
    clf.loss_curve_ = [row["train_loss"] for row in clf.history_]
    clf.save(tmp_path / "m.npz")
    found = MLPClassifier.load(tmp_path / "m.npz")
    assert found.history_ == clf.history_ and found.loss_curve_ == clf.loss_curve_
    assert load(tmp_path / "m.npz").predict(X).tolist() == clf.predict(X).tolist()
