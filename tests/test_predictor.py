"""A model file gives back the model, and nothing but it: damage and forgery are one clear error."""

import copy
import json
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from minidl import Predictor, Sequential, load, save
from minidl.archive import read_archive, write_archive
from minidl.data.augmentation import ShiftedViews
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.errors import CheckpointError, DivergenceError
from minidl.estimators import MLPClassifier
from minidl.layers import LAYERS, BatchNorm, Dropout, Identity, Linear, ReLU, Residual
from minidl.losses import MSE, SigmoidCrossEntropy, SoftmaxCrossEntropy

GOLDEN = Path(__file__).parent / "golden" / "model-v1.npz"
ROWS = np.array([[0.0, 1.0, 2.0], [3.0, -4.0, 5.0]])
CLASSES = ["setosa", "virginica", "ü"]


def rng():
    return np.random.default_rng(0)


def layers(n_out=3):
    return [
        Linear(3, 4, rng=rng()),
        BatchNorm(4),
        Residual([ReLU(), Linear(4, 4, rng=rng())]),
        Dropout(0.5, rng=rng()),
        Linear(4, n_out, rng=rng()),
    ]


def predictor(loss_function=None, n_out=3, **fields):
    """A small model, with statistics that are not those of the start."""
    loss_function = (
        SoftmaxCrossEntropy(label_smoothing=0.1) if loss_function is None else loss_function
    )
    model = Sequential(layers(n_out))
    model.buffers[:] = np.arange(model.buffers.size) + 1
    preprocessing = PREPROCESSINGS["standard"]().fit(np.vstack([ROWS, -ROWS, ROWS**2]))
    given = {"n_features": 3, "classes": CLASSES, "feature_names": ["a", "b", "c"]} | fields
    return Predictor(model, loss_function, preprocessing, **given)


def golden():
    """What tests/golden/model-v1.npz holds, of formulas: no random generator has a say."""
    whole = predictor()
    whole.model.params[:] = np.sin(np.arange(whole.model.params.size))
    return whole


def test_a_model_comes_back_with_the_same_bits(tmp_path):
    whole = predictor()
    whole.save(tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    assert again.predict_proba(ROWS).tobytes() == whole.predict_proba(ROWS).tobytes()
    assert again.predict(ROWS).tolist() == whole.predict(ROWS).tolist()
    assert set(again.predict(ROWS)) <= set(CLASSES)
    assert (again.loss_function, again.classes, again.feature_names) == (
        *(whole.loss_function, CLASSES),
        ["a", "b", "c"],
    )
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()


def test_a_model_of_one_class_comes_back(tmp_path):
    y = np.array(["only", "only"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MLPClassifier(hidden_layer_sizes=(3,), max_iter=2).fit(ROWS, y)
    fitted.save(tmp_path / "estimator.npz")
    model, loss_function = Sequential([Linear(3, 1, rng=0)]), SoftmaxCrossEntropy()
    save(model, loss_function, tmp_path / "model.npz", classes=["only"])
    for path in tmp_path.iterdir():
        found = load(path)
        assert found.predict(ROWS).tolist() == ["only", "only"]
        assert found.predict_proba(ROWS).tolist() == [[1.0], [1.0]]
    again = MLPClassifier.load(tmp_path / "estimator.npz")
    assert again.predict(ROWS).tolist() == ["only", "only"]
    assert again.predict_proba(ROWS).tolist() == fitted.predict_proba(ROWS).tolist()


def test_saving_a_large_model_copies_no_weights(tmp_path):
    model = Sequential([Linear(1000, 2000, rng=0, init="zeros"), Linear(2000, 2, rng=0)])
    tracemalloc.start()
    save(model, SoftmaxCrossEntropy(), tmp_path / "model.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * model.params.nbytes
    assert np.array_equal(load(tmp_path / "model.npz").model.params, model.params)


def test_a_model_of_images_answers_with_the_mean_over_moves(tmp_path):
    moved = ShiftedViews((3, 3, 1), 1)
    model = Sequential([Linear(9, 4, rng=rng())])
    X = rng().normal(size=(1500, 9)).astype(np.float32)
    unchanged = PREPROCESSINGS["none"]().fit(X)
    plain = Predictor(model, MSE(), unchanged, 9)
    Predictor(model, MSE(), unchanged, 9, views=moved).save(tmp_path / "model.npz")
    found = load(tmp_path / "model.npz")
    expected = np.mean([plain.predict(view) for view in moved(X)], axis=0)
    np.testing.assert_allclose(found.predict(X), expected, rtol=1e-5, atol=1e-6)
    assert found.views == moved


def test_todays_file_predicts_the_same_for_ever():
    found = load(GOLDEN)
    np.testing.assert_allclose(found.predict_proba(ROWS), golden().predict_proba(ROWS), rtol=1e-6)
    assert found.classes == CLASSES


def test_probabilities_are_a_row_for_each_row():
    p = predictor().predict_proba(ROWS)
    assert p.shape == (2, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)


def test_several_labels_a_row_have_no_set_of_classes():
    whole = predictor(SigmoidCrossEntropy(), conformal_scores=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="predict_set is for one class a row"):
        whole.predict_set(ROWS)


def test_two_classes_from_one_output(tmp_path):
    predictor(SigmoidCrossEntropy(), 1, classes=["no", "yes"]).save(tmp_path / "m.npz")
    found = load(tmp_path / "m.npz")
    p = found.predict_proba(ROWS)
    assert p.shape == (2, 2)
    assert found.predict(ROWS).tolist() == [["no", "yes"][i] for i in p.argmax(axis=1)]


def test_a_regression_has_values_and_no_probabilities(tmp_path):
    predictor(MSE(), 1, classes=None).save(tmp_path / "m.npz")
    found = load(tmp_path / "m.npz")
    assert found.predict(ROWS).shape == (2,)
    with pytest.raises(AttributeError, match="this model is a regression"):
        found.predict_proba(ROWS)


@pytest.mark.parametrize(
    "X, message",
    [
        (ROWS[:, :2], r"X must be \(n_samples, 3\), got \(2, 2\)"),
        (ROWS[0], r"X must be \(n_samples, 3\), got \(3,\)"),
        (np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]]), "X holds nan in row 1, b: give a finite"),
        (np.array([[0.0, 0.0, -np.inf]]), "X holds -inf in row 0, c"),
    ],
)
def test_rows_that_do_not_fit_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        predictor().predict(X)


def test_columns_are_found_by_their_names():
    model, X = predictor(), rng().standard_normal((5, 3))
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    assert np.array_equal(model.predict_proba(frame[["c", "a", "b"]]), model.predict_proba(X))
    assert np.array_equal(model.predict_proba(pd.DataFrame(X)), model.predict_proba(X))
    with pytest.raises(ValueError, match="missing: b; unknown: e, f"):
        model.predict(frame.rename(columns={"b": "e"}).assign(f=1))


def test_numbers_of_any_kind_are_taken_and_words_refused():
    model, X = predictor(), rng().integers(0, 5, (5, 3))
    for given in (X.astype(object), X.astype(str), pd.DataFrame(X).astype("Int64")):
        assert np.array_equal(model.predict_proba(given), model.predict_proba(X))
    with pytest.raises(ValueError, match=r"^X, row 0: column .* holds 'x', which is not"):
        model.predict([["1", "2", "x"]])


def test_what_is_not_finite_is_not_written(tmp_path):
    whole = predictor()
    whole.model.params[3] = np.inf
    with pytest.raises(DivergenceError, match="'params'"):
        whole.save(tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_no_file_can_hold_is_refused(tmp_path):
    class Own(Identity):
        pass

    whole = predictor()
    own = Predictor(
        Sequential([*layers(), Own()]), whole.loss_function, whole.preprocessing, 3, CLASSES
    )
    with pytest.raises(ValueError, match="Own has no name in the registry"):
        own.save(tmp_path / "model.npz")


# --- forged files: the hash is right, what they say is not


@pytest.fixture
def forge(tmp_path):
    """Write a file of version 1 after a change of its document and arrays; return its path."""
    arrays, document = read_archive(GOLDEN, kind="model", newest_version=1)

    def forge(change):
        forged_arrays, forged = dict(arrays), copy.deepcopy(document)
        change(forged, forged_arrays)
        write_archive(tmp_path / "forged.npz", forged_arrays, forged, kind="model", version=1)
        return tmp_path / "forged.npz"

    forge.document = document
    return forge


def views(image_shape, pixels):
    return {"image_shape": image_shape, "pixels": pixels}


CHANGES = {
    "no layers": lambda d, a: d.update(layers=[]),
    "layers are a number": lambda d, a: d.update(layers=3),
    "unknown layer": lambda d, a: d["layers"][0].update(name="os.system"),
    "layer without options": lambda d, a: d["layers"][0].pop("options"),
    "unknown option": lambda d, a: d["layers"][0]["options"].update(hook="x"),
    "option of another type": lambda d, a: d["layers"][3]["options"].update(p="0.5"),
    "option out of range": lambda d, a: d["layers"][3]["options"].update(p=2),
    "sizes that do not fit": lambda d, a: d["layers"][0]["options"].update(n_out=5),
    "a size below zero": lambda d, a: d["layers"][0]["options"].update(n_in=-3, n_out=-4),
    "a size that is no whole number": lambda d, a: d["layers"][0]["options"].update(n_in=3.5),
    "one layer too many": lambda d, a: d["layers"].append(d["layers"][-1]),
    "one layer too few": lambda d, a: d["layers"].pop(),
    "parameters of another shape": lambda d, a: a.update(params=a["params"][:-1]),
    "parameters in rows": lambda d, a: a.update(params=a["params"].reshape(1, -1)),
    "parameters of another dtype": lambda d, a: a.update(params=a["params"].astype(float)),
    "dtype": lambda d, a: d.update(dtype="object"),
    "dtype that is no text": lambda d, a: d.update(dtype=[["a", "b"]]),
    "no parameters": lambda d, a: a.pop("params"),
    "statistics of another shape": lambda d, a: a.update(buffers=a["buffers"][:1]),
    "unknown head": lambda d, a: d["head"].update(name="none"),
    "head is a list": lambda d, a: d.update(head=[]),
    "head option out of range": lambda d, a: d["head"]["options"].update(label_smoothing=7),
    "head of a regression": lambda d, a: d.update(head={"name": "mse", "options": {}}),
    "unknown preprocessing": lambda d, a: d.update(preprocessing="x"),
    "preprocessing without its arrays": lambda d, a: a.pop("preprocessing.mean", a.pop("params")),
    "no classes": lambda d, a: d.update(classes=None),
    "too few classes": lambda d, a: d.update(classes=["a", "b"]),
    "classes are text": lambda d, a: d.update(classes="abc"),
    "classes are lists": lambda d, a: d.update(classes=[[1], [2], [3]]),
    "feature names are numbers": lambda d, a: d.update(feature_names=[1, 2, 3]),
    "too few feature names": lambda d, a: d.update(feature_names=["a"]),
    "no number of features": lambda d, a: d.pop("n_features"),
    "another number of features": lambda d, a: d.update(n_features=4, feature_names=None),
    "features below zero": lambda d, a: d.update(n_features=-1, feature_names=None),
    "features beyond memory": lambda d, a: d.update(n_features=2**40, feature_names=None),
    "views are a number": lambda d, a: d.update(views=2),
    "views of another image": lambda d, a: d.update(views=views([2, 2, 1], 1)),
    "views of half an image": lambda d, a: d.update(views=views([3, 0.5, 2], 1)),
    "views of nothing": lambda d, a: d.update(views=views([3, 1, 1], 0)),
    "views beyond the image": lambda d, a: d.update(views=views([3, 1, 1], 1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_forged_file_is_one_clear_error(forge, name):
    path = forge(CHANGES[name])
    with pytest.raises(CheckpointError, match=r"forged\.npz: ") as error:
        load(path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500


def large(document, arrays, *, n_layers, n_out):
    layer = {"name": "linear", "options": {"n_in": n_out, "n_out": n_out, "bias": True}}
    document["layers"] = [layer] * n_layers


@pytest.mark.parametrize(
    "n_layers, n_out", [(1, 2000), (1, 10**6), (1, 2**40), (300, 300), (1, 10**400)]
)
def test_memory_is_not_taken_on_a_files_word(forge, n_layers, n_out):
    def change(document, arrays):
        large(document, arrays, n_layers=n_layers, n_out=n_out)
        arrays["params"] = np.zeros(100_000, np.float32)

    path = forge(change)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"forged\.npz"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size + 8 * 2**20


def test_hundreds_of_layers_within_layers_are_one_clear_error(tmp_path, forge):
    document = copy.deepcopy(forge.document)
    text = '{"name": "residual", "options": {"layers": [' * 200 + "{}" + "]}}" * 200
    document["layers"].append(json.loads(text))
    path = forge(lambda d, a: d.update(document))
    with pytest.raises(CheckpointError, match=r"forged\.npz"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"GIF89a" * 100])
def test_what_is_no_model_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.npz"):
        load(path)
    with pytest.raises(CheckpointError, match=r"gone\.npz: No such file"):
        load(tmp_path / "gone.npz")


def test_a_checkpoint_is_no_model(tmp_path):
    path = tmp_path / "last.npz"
    write_archive(path, {}, {}, kind="checkpoint", version=1)
    with pytest.raises(CheckpointError, match="it is a 'checkpoint', not a 'model'"):
        load(path)


def made(kind):
    """A layer of that kind for four features."""
    for arguments in ((4, 4), (4,), ()):
        for extra in ({}, {"rng": rng()}):
            try:
                return kind(*arguments, **extra)
            except (TypeError, ValueError):
                continue
    return kind([Linear(4, 4, rng=rng())])


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_can_hold_every_layer(tmp_path, name):
    model = Sequential([Linear(3, 4, rng=rng()), made(LAYERS[name]), Linear(4, 3, rng=rng())])
    whole = Predictor(model, SoftmaxCrossEntropy(), PREPROCESSINGS["none"]().fit(ROWS), 3, CLASSES)
    whole.save(tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    assert again.predict_proba(ROWS).tobytes() == whole.predict_proba(ROWS).tobytes()


def test_an_option_that_could_not_be_read_back_is_refused_before_it_is_saved(tmp_path, monkeypatch):
    class Sine(ReLU):
        def __init__(self, k=1.0):
            self.k = k

    class Wave(ReLU):
        def __init__(self, k: float = 1.0):
            self.k = k

    class Forgetful(ReLU):
        def __init__(self, k: float = 1.0):
            self.factor = k

    monkeypatch.setitem(LAYERS, "forgetful", Forgetful)
    monkeypatch.setitem(LAYERS, "sine", Sine)
    monkeypatch.setitem(LAYERS, "wave", Wave)
    for layer, said in (
        (Sine(2.0), r"^no file can hold sine with k=2\.0: .* annotated by the constructor"),
        (Wave(np.inf), r"^no file can hold wave with k=inf: options are numbers up to 1e300"),
        (Forgetful(2.0), r"^no file can hold forgetful: it keeps no attribute 'k'"),
    ):
        with pytest.raises(ValueError, match=said):
            save(Sequential([layer, Linear(4, 3, rng=rng())]), MSE(), tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()
    save(Sequential([Wave(2.0), Linear(4, 3, rng=rng())]), MSE(), tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").model.layers[0].k == 2.0
