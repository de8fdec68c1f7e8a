from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from minidl.gradcheck import check_gradients, jacobian
from minidl.layers import (
    ACTIVATIONS,
    GELU,
    LAYERS,
    BatchNorm,
    Dropout,
    GaussianNoise,
    Layer,
    LayerNorm,
    Linear,
    ParametricMix,
    Residual,
    RMSNorm,
    Scale,
    Tanh,
)
from minidl.layers.layer import Scratch
from minidl.model import walk

N_IN = 4


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def residual(dtype: Any) -> Layer:
    inside: Sequence[Layer] = (
        LayerNorm(N_IN, dtype=dtype),
        Linear(N_IN, 3, rng=rng(), dtype=dtype),
        Tanh(),
        Linear(3, N_IN, rng=rng(1), dtype=dtype),
    )
    return Residual(inside)


# By the name in the registry: every form of the layer that its contract must hold for.
SAMPLES: dict[str, list[Callable[[Any], Layer]]] = {
    **{name: [lambda dtype, make=make: make()] for name, make in ACTIVATIONS.items()},
    "linear": [
        lambda dtype: Linear(N_IN, 3, rng=rng(), dtype=dtype),
        lambda dtype: Linear(N_IN, 3, rng=rng(), bias=False, dtype=dtype),
    ],
    "gelu": [lambda dtype: GELU(), lambda dtype: GELU("tanh")],
    "parametric": [
        lambda dtype: ParametricMix(N_IN, dtype=dtype),
        lambda dtype: ParametricMix(N_IN, "mish", dtype=dtype),
    ],
    "dropout": [lambda dtype: Dropout(0.4, rng=rng()), lambda dtype: Dropout(0.0, rng=rng())],
    "gaussian_noise": [
        lambda dtype: GaussianNoise(0.3, rng=rng()),
        lambda dtype: GaussianNoise(0.0, rng=rng()),
    ],
    "batch_norm": [lambda dtype: BatchNorm(N_IN, dtype=dtype)],
    "layer_norm": [lambda dtype: LayerNorm(N_IN, dtype=dtype)],
    "rms_norm": [lambda dtype: RMSNorm(N_IN, dtype=dtype)],
    "scale": [lambda dtype: Scale(N_IN, dtype=dtype)],
    "residual": [residual, lambda dtype: Residual([Residual([Tanh()])])],
}
CASES = [
    pytest.param(make, id=f"{name}-{i}")
    for name, makes in SAMPLES.items()
    for i, make in enumerate(makes)
]
each_layer = pytest.mark.parametrize("make", CASES)


def tensors(layer: Layer, prefix: str = "") -> dict[str, Any]:
    return {
        f"{i} {name}": getattr(one, prefix + name)
        for i, one in enumerate(walk([layer]))
        for name in one.param_names
    }


def trained(make: Callable[[Any], Layer], dtype: Any = np.float64) -> Layer:
    """The layer with parameters that are nowhere near the special values of the start."""
    layer = make(dtype)
    for array in tensors(layer).values():
        array += rng(7).normal(size=array.shape).astype(dtype)
    return layer


def batch(dtype: Any = np.float64, n: int = 6, seed: int = 3) -> np.ndarray:
    return rng(seed).normal(size=(n, N_IN)).astype(dtype)


def step(layer: Layer, x: np.ndarray, need_dx: bool = True) -> tuple[np.ndarray, Any]:
    layer.begin_step(0, 0)
    y = layer.forward(x)
    dy = rng(4).normal(size=y.shape).astype(y.dtype)
    return y, layer.backward(dy, need_dx)


def test_every_registered_layer_has_a_sample():
    assert set(SAMPLES) == set(LAYERS)
    for name, makes in SAMPLES.items():
        assert all(type(make(np.float32)) is LAYERS[name] for make in makes)


@each_layer
def test_gradients_are_those_of_finite_differences(make):
    report = check_gradients(trained(make), batch(), tolerance=1e-7)
    assert report.passed, f"\n{report}"
    assert all(row.n_kinks == 0 for row in report.rows)


@each_layer
def test_each_parameter_has_a_gradient_of_its_shape_and_dtype(make):
    for dtype in (np.float32, np.float64):
        layer = make(dtype)
        for name, array in tensors(layer).items():
            gradient = tensors(layer, "d")[name]
            assert array.shape == gradient.shape
            assert array.dtype == gradient.dtype == dtype


@each_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_goes_in_as_one_dtype_comes_out_as_it(make, dtype):
    layer = trained(make, dtype)
    y, dx = step(layer, batch(dtype))
    assert y.dtype == dx.dtype == dtype
    assert layer.forward(batch(dtype), train=False).dtype == dtype
    assert all(array.dtype == dtype for array in tensors(layer, "d").values())


@each_layer
def test_shapes(make):
    layer = make(np.float64)
    y, dx = step(layer, batch())
    assert y.shape == (6, layer.output_size(N_IN))
    assert dx.shape == (6, N_IN)
    assert layer.forward(batch(), train=False).shape == y.shape


@each_layer
def test_neither_x_nor_dy_is_modified(make):
    layer = trained(make)
    x = batch()
    for train in (True, False):
        layer.forward(x, train)
        assert np.array_equal(x, batch())
    y = layer.forward(x)
    dy = rng(5).normal(size=y.shape)
    layer.backward(dy)
    assert np.array_equal(dy, rng(5).normal(size=y.shape))
    assert np.array_equal(x, batch())


@each_layer
def test_forward_without_training_saves_nothing(make):
    layer = make(np.float64)
    layer.forward(batch(), train=False)
    assert all(one._saved is None for one in walk([layer]))
    with pytest.raises(RuntimeError, match=r"backward needs a forward"):
        layer.backward(layer.forward(batch(), train=False))


@each_layer
def test_backward_consumes_what_was_saved(make):
    layer = make(np.float64)
    y, _ = step(layer, batch())
    assert all(one._saved is None for one in walk([layer]))
    with pytest.raises(RuntimeError, match=type(layer).__name__):
        layer.backward(y)


@each_layer
def test_gradients_are_overwritten_in_place(make):
    layer = trained(make)
    step(layer, batch())
    arrays = tensors(layer, "d")
    first = {name: array.copy() for name, array in arrays.items()}
    step(layer, batch(seed=9))
    step(layer, batch())
    for name, array in tensors(layer, "d").items():
        assert array is arrays[name]
        assert np.array_equal(array, first[name])


@each_layer
def test_without_dx_the_parameters_learn_the_same(make):
    layer = trained(make)
    step(layer, batch())
    with_dx = {name: array.copy() for name, array in tensors(layer, "d").items()}
    _, dx = step(layer, batch(), need_dx=False)
    assert dx is None
    for name, array in tensors(layer, "d").items():
        assert np.array_equal(array, with_dx[name])


@each_layer
def test_results_of_one_step_survive_the_next(make):
    layer = trained(make)
    y, dx = step(layer, batch())
    kept = y.copy(), dx.copy()
    step(layer, batch(seed=9))
    assert np.array_equal(y, kept[0])
    assert np.array_equal(dx, kept[1])


@each_layer
def test_lent_scratch_changes_no_result(make):
    own, lent = trained(make), trained(make)
    for one in walk([lent]):
        one._scratch = Scratch()
    for seed in (3, 9, 3):
        expected, found = step(own, batch(seed=seed)), step(lent, batch(seed=seed))
        assert np.array_equal(expected[0], found[0])
        assert np.array_equal(expected[1], found[1])
        for name, array in tensors(own, "d").items():
            assert np.array_equal(array, tensors(lent, "d")[name])


@each_layer
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_works_alike_and_alone(make, twin_of):
    layer = trained(make)
    layer.forward(batch())
    twin = twin_of(layer)
    assert all(one._saved is None for one in walk([twin]))
    y, dx = step(layer, batch())
    for array in tensors(layer).values():
        array += 1
    twin_y, twin_dx = step(twin, batch())
    assert np.array_equal(y, twin_y)
    assert np.array_equal(dx, twin_dx)


@each_layer
def test_large_inputs_stay_finite_in_float32(make):
    layer = make(np.float32)
    x = np.array([[1e4, -1e4, 5e3, -90], [-1e4, 90, 1, -1e4], [1e4, 1e4, -1e4, 0]], np.float32)
    y, dx = step(layer, x)
    assert np.all(np.isfinite(y))
    assert np.all(np.isfinite(dx))
    assert np.all(np.isfinite(layer.forward(x, train=False)))


@each_layer
def test_rows_do_not_talk_unless_the_layer_says_so(make):
    layer = trained(make)
    whole, _ = step(layer, batch())
    x = batch()
    x[1:] += 1.0
    changed, _ = step(layer, x)
    assert np.allclose(changed[0], whole[0], rtol=1e-13, atol=1e-13) is not layer.mixes_rows


@each_layer
def test_jacobian_is_that_of_finite_differences(make):
    layer = trained(make)
    x = batch()[0]
    if layer.mixes_rows:
        with pytest.raises(ValueError, match=r"BatchNorm has no Jacobian of one example"):
            jacobian(layer, x)
        return
    expected = np.empty((layer.output_size(N_IN), N_IN))
    for i in range(N_IN):
        ends = []
        for h in (1e-5, -1e-5):
            moved = x.copy()
            moved[i] += h
            layer.begin_step(0, 0)
            ends.append(layer.forward(moved[None])[0])
        expected[:, i] = (ends[0] - ends[1]) / 2e-5
    assert np.linalg.norm(jacobian(layer, x) - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("make", [lambda: Linear(2, 3), Dropout, GaussianNoise])
def test_randomness_must_be_given(make):
    with pytest.raises(TypeError, match=r"rng"):
        make()


def test_layers_of_a_size_refuse_another():
    for name in ("linear", "scale", "layer_norm", "rms_norm", "batch_norm", "parametric"):
        layer = SAMPLES[name][0](np.float32)
        assert layer.input_size() == N_IN
        with pytest.raises(ValueError, match=r"takes 4 features, but is given 5"):
            layer.output_size(5)
    for name in ACTIVATIONS:
        assert SAMPLES[name][0](np.float32).output_size(5) == 5


@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, ParametricMix, RMSNorm, Scale])
def test_sizes_start_at_one(make):
    with pytest.raises(ValueError, match=r"^n_features must be at least 1, got 0"):
        make(0)


def test_residual_must_lead_back():
    with pytest.raises(ValueError, match=r"^layers must lead back to 4 features, not to 3"):
        Residual([Tanh(), Linear(4, 3, rng=rng())])
    with pytest.raises(ValueError, match=r"^layers must not be empty"):
        Residual([])
    assert Residual([Tanh()]).output_size(5) == 5
    assert Residual([Linear(4, 3, rng=rng()), Linear(3, 4, rng=rng())]).multiply_adds(4) == 24
