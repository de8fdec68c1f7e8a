from __future__ import annotations

import math

import numpy as np
import pytest

from minidl.layers import (
    ACTIVATIONS,
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    Mish,
    ParametricMix,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minidl.layers.activations import sigmoid
from minidl.layers.erfc import erfc


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


# Each function as its source writes it, for one number.
DEFINITIONS = [
    (ReLU(), lambda x: max(x, 0.0)),
    (LeakyReLU(), lambda x: x if x > 0 else 0.01 * x),
    (LeakyReLU(0.3), lambda x: x if x > 0 else 0.3 * x),
    (LeakyReLU(0.0), lambda x: max(x, 0.0)),
    (Tanh(), math.tanh),
    (Sigmoid(), logistic),
    (ELU(), lambda x: x if x > 0 else math.exp(x) - 1),
    (ELU(0.5), lambda x: x if x > 0 else 0.5 * (math.exp(x) - 1)),
    (SELU(), lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))),
    (GELU(), lambda x: x * normal_cdf(x)),
    (
        GELU("tanh"),
        lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    (SiLU(), lambda x: x * logistic(x)),
    (Mish(), lambda x: x * math.tanh(softplus(x))),
    (Softplus(), softplus),
]
each_definition = pytest.mark.parametrize(
    ("layer", "function"), DEFINITIONS, ids=lambda value: type(value).__name__
)
X = np.concatenate([np.linspace(-40, 40, 2001), [0.0, -1e4, 1e4, 1e-30, -1e-30, -800, 800]])


@each_definition
def test_values_are_those_of_the_definition(layer, function):
    expected = np.array([function(x) for x in X.tolist()])
    found = layer.forward(X[None], train=False)[0]
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-14)
    single = layer.forward(X[None].astype(np.float32), train=False)[0]
    assert np.allclose(single, expected, rtol=2e-6, atol=4e-6)


@each_definition
def test_training_computes_the_same(layer, function):
    assert np.array_equal(layer.forward(X[None]), layer.forward(X[None], train=False))


@each_definition
def test_slopes_far_out_are_those_of_the_ends(layer, function):
    x = np.array([[-1e4, 1e4]], np.float32)
    layer.forward(x)
    slopes = layer.backward(np.ones_like(x))[0]
    ends = [(function(t + 1) - function(t - 1)) / 2 for t in (-1e4, 1e4)]
    assert np.allclose(slopes, ends, rtol=1e-6, atol=1e-7)


def test_every_activation_has_a_definition():
    defined = {type(layer) for layer, _ in DEFINITIONS}
    assert set(ACTIVATIONS.values()) - defined == {ACTIVATIONS["identity"]}


def test_the_tails_of_sigmoid_keep_their_digits():
    for dtype, x in ((np.float32, -80.0), (np.float64, -700.0)):
        found = sigmoid(np.array([x, -x], dtype))
        assert found[0] == pytest.approx(math.exp(x), rel=1e-5)
        assert found[1] == 1


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 2e-15), (np.float32, 4e-7)])
def test_erfc(dtype, error):
    x = np.concatenate([np.linspace(-7, 7, 20001), [0, 1e4, -1e4]]).astype(dtype)
    expected = np.array([math.erfc(value) for value in x.tolist()])
    found = erfc(x)
    assert found.dtype == dtype
    assert np.abs(found - expected).max() < error
    assert np.abs(found[:20001] / expected[:20001] - 1).max() < 20 * error
    assert np.allclose(erfc(-x), 2 - found, rtol=0, atol=error)


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_the_tail_of_gelu_keeps_its_digits(dtype, error):
    x = np.linspace(-8, -1, 500).astype(dtype)
    expected = np.array([value * normal_cdf(value) for value in x.tolist()])
    assert np.abs(GELU().forward(x) / expected - 1).max() < error


def test_selu_keeps_mean_and_variance():
    x = np.random.default_rng(0).normal(size=(1000, 1000))
    y = SELU().forward(x)
    assert abs(y.mean()) < 0.005
    assert y.var() == pytest.approx(1, abs=0.01)


def test_parametric_mix_goes_from_the_input_to_the_activation():
    x = np.random.default_rng(0).normal(size=(5, 3))
    layer = ParametricMix(3, "tanh", dtype=np.float64)
    assert np.allclose(layer.forward(x), np.tanh(x), rtol=1e-15)
    layer.a[:] = [0, 0.25, 2]
    y = layer.forward(x)
    assert np.array_equal(y[:, 0], x[:, 0])
    assert np.allclose(y[:, 1], 0.75 * x[:, 1] + 0.25 * np.tanh(x[:, 1]))
    assert np.allclose(y[:, 2], 2 * np.tanh(x[:, 2]) - x[:, 2])


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: LeakyReLU(1.0), "negative_slope"),
        (lambda: LeakyReLU(-0.1), "negative_slope"),
        (lambda: ELU(0.0), "alpha"),
        (lambda: ELU(math.inf), "alpha"),
        (lambda: GELU("exact"), "approximate"),
        (lambda: ParametricMix(3, "linear"), "activation"),
    ],
)
def test_bad_arguments_are_named(make, argument):
    with pytest.raises(ValueError, match=f"^{argument} must be"):
        make()
