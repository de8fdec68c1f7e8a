"""Representations that can be read and pasted, and messages for a class given for an object."""

import inspect

import numpy as np
import pytest

import minidl
import minidl.estimators
import minidl.tabular
from minidl import (
    MSE,
    SGD,
    BatchNorm,
    Dropout,
    Linear,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
)
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.errors import ParameterError

X, y = np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    "thing, text",
    [
        (Linear(3, 2, rng=0), "Linear(3, 2)"),
        (Linear(3, 2, rng=0, bias=False), "Linear(3, 2, bias=False)"),
        (Dropout(0.2, rng=1), "Dropout(p=0.2)"),
        (BatchNorm(4, momentum=0.3), "BatchNorm(4, momentum=0.3)"),
        (Residual([ReLU(), Linear(2, 2, rng=0)]), "Residual([ReLU(), Linear(2, 2)])"),
        (PREPROCESSINGS["quantile"](50), "QuantileTransform(n_quantiles=50)"),
        (MSE(), "MSE(scale_targets=False, center=0.0, scale=1.0)"),
    ],
)
def test_representations_are_calls(thing, text):
    assert repr(thing) == text


@pytest.mark.parametrize("room", [minidl, minidl.estimators, minidl.tabular])
def test_annotations_of_all_that_is_public_are_types(room):
    for name in room.__all__:
        thing = getattr(room, name)
        if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, Exception)):
            inspect.signature(thing, eval_str=True)


def test_a_model_and_a_predictor_show_their_layers(tmp_path):
    model = Sequential([Linear(3, 2, rng=0)])
    assert repr(model) == model.summary()
    minidl.save(model, SoftmaxCrossEntropy(), tmp_path / "m.npz", classes=["a", "b"])
    text = repr(minidl.load(tmp_path / "m.npz"))
    assert text.startswith("Predictor of 3 features, 2 classes\nloss: SoftmaxCrossEntropy(")
    assert model.summary() in text


def test_a_training_says_how_far_it_is():
    shown = training()
    shown.step()
    assert repr(shown).startswith("Training(SoftmaxCrossEntropy(")
    assert repr(shown).endswith(", nesterov=False): epoch 0 of 1, step 1)")


def test_a_whole_number_is_a_seed():
    for seed in (0, np.random.default_rng(0)):
        assert np.array_equal(Linear(3, 2, rng=seed).W, Linear(3, 2, rng=0).W)
    assert np.array_equal(Dropout(rng=5).key, Dropout(rng=5).key)


def training(**changes):
    given = {"model": Sequential([Linear(3, 2, rng=0)]), "loss_function": SoftmaxCrossEntropy()}
    given |= {"optimizer": SGD(), "train": (X, y)} | changes
    return minidl.Training(**given, epochs=1, batch_size=2, rng=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Sequential([Linear(3, 2, rng=0), ReLU]), "layer 1 .*the class ReLU; write ReLU("),
        (lambda: Residual([ReLU]), "layer 0 .*the class ReLU; write ReLU("),
        (lambda: Sequential([[]]), "layer 0 must be an object of Layer, got list"),
        (lambda: training(loss_function=MSE), "loss_function .*the class MSE; write MSE("),
        (lambda: MSE()(np.ones((2, 1)), [0, 1]), "targets must be .*ndarray, got list"),
        (lambda: SoftmaxCrossEntropy()(X, [0, 1]), "targets must be .*ndarray, got list"),
        (lambda: training(optimizer=SGD), "optimizer .*the class SGD; write SGD("),
        (lambda: training(schedule=minidl.Cosine), "schedule .*the class Cosine"),
        (lambda: Sequential([ReLU()]).forward([[1.0]]), "x must be an array .*, got list"),
        (
            lambda: minidl.evaluate(Sequential([ReLU()]), MSE(), [[1.0]], [1.0]),
            "the data needs X as an array, got list",
        ),
        (lambda: minidl.save(Sequential, MSE(), "x"), "model .*the class Sequential"),
        (lambda: minidl.save(Sequential([ReLU()]), MSE, "x"), "loss_function .*the class MSE"),
    ],
)
def test_a_class_or_a_list_for_an_object_is_named(make, message):
    with pytest.raises(ParameterError, match=message.replace("(", r"\(")):
        make()


def test_a_hand_trained_model_is_saved_with_one_call(tmp_path):
    model = Sequential([Linear(3, 2, rng=0)])
    scaled = PREPROCESSINGS["standard"]().fit(np.arange(12.0).reshape(4, 3))
    minidl.save(model, SoftmaxCrossEntropy(), tmp_path / "m.npz", preprocessing=scaled)
    found = minidl.load(tmp_path / "m.npz")
    assert found.classes == [0, 1] and found.n_features == 3
    expected = SoftmaxCrossEntropy().predict(model.forward(scaled.transform(X)))
    np.testing.assert_array_equal(found.predict_proba(X), expected)
    minidl.save(model, MSE(), tmp_path / "m.npz", feature_names=["a", "b", "c"])
    assert minidl.load(tmp_path / "m.npz").predict(X).shape == (4, 2)
