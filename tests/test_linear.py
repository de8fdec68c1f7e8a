"""The statements of the chapter at the top of linear.py, for random sizes and numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from minidl.gradcheck import jacobian
from minidl.layers import Linear
from minidl.layers.initializers import INITIALIZERS

sizes = st.integers(1, 7)
in_random_cases = settings(max_examples=25, deadline=None, derandomize=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def linear(n_in: int, n_out: int, seed: int = 0) -> Linear:
    layer = Linear(n_in, n_out, rng=rng(seed), dtype=np.float64)
    layer.b[:] = rng(seed + 1).normal(size=n_out)
    return layer


@in_random_cases
@given(sizes, sizes, st.integers(0, 99))
def test_each_output_is_a_weighted_sum_of_all_inputs(n_in, n_out, seed):
    layer, x = linear(n_in, n_out, seed), rng(seed + 2).normal(size=(1, n_in))
    y = layer.forward(x)
    for j in range(n_out):
        total = layer.b[j] + sum(x[0, i] * layer.W[i, j] for i in range(n_in))
        assert y[0, j] == pytest.approx(total, abs=1e-13)


@in_random_cases
@given(sizes, sizes, st.integers(1, 9), st.integers(0, 99))
def test_a_mini_batch_stacks_rows_forwards_and_backwards(n_in, n_out, n_samples, seed):
    layer, draw = linear(n_in, n_out, seed), rng(seed + 2)
    X, dY = draw.normal(size=(n_samples, n_in)), draw.normal(size=(n_samples, n_out))
    Y = layer.forward(X)
    dX = layer.backward(dY)
    for n in range(n_samples):
        assert np.allclose(layer.forward(X[n : n + 1]), Y[n : n + 1], rtol=0, atol=1e-13)
        assert np.allclose(layer.backward(dY[n : n + 1]), dX[n : n + 1], rtol=0, atol=1e-13)


@in_random_cases
@given(sizes, sizes, st.integers(0, 99))
def test_the_jacobian_of_one_example_is_W_transposed_whatever_x(n_in, n_out, seed):
    layer = linear(n_in, n_out, seed)
    for x in rng(seed).normal(size=(2, n_in)):
        assert np.array_equal(jacobian(layer, x), layer.W.T)


@in_random_cases
@given(sizes, sizes, st.integers(1, 6), st.integers(0, 99))
def test_the_jacobian_between_rows_is_zero(n_in, n_out, n_samples, seed):
    layer = linear(n_in, n_out, seed)
    for n in range(n_samples):
        dY = np.zeros((n_samples, n_out))
        dY[n] = rng(seed).normal(size=n_out)
        layer.forward(rng(seed).normal(size=(n_samples, n_in)))
        dX = layer.backward(dY)
        assert np.all(np.delete(dX, n, axis=0) == 0)


@in_random_cases
@given(sizes, sizes, st.integers(0, 99))
def test_every_output_depends_on_every_input(n_in, n_out, seed):
    assert np.all(jacobian(linear(n_in, n_out, seed), np.zeros(n_in)) != 0)


@in_random_cases
@given(sizes, sizes, st.integers(1, 9), st.integers(0, 99))
def test_each_input_gathers_from_all_outputs(n_in, n_out, n_samples, seed):
    layer, draw = linear(n_in, n_out, seed), rng(seed + 2)
    dY = draw.normal(size=(n_samples, n_out))
    layer.forward(draw.normal(size=(n_samples, n_in)))
    dX = layer.backward(dY)
    for n, i in np.ndindex(dX.shape):
        total = sum(dY[n, j] * layer.W[i, j] for j in range(n_out))
        assert dX[n, i] == pytest.approx(total, abs=1e-13)


@in_random_cases
@given(sizes, sizes, st.integers(1, 9), st.integers(0, 99))
def test_parameters_add_up_what_each_example_says(n_in, n_out, n_samples, seed):
    layer, draw = linear(n_in, n_out, seed), rng(seed + 2)
    X, dY = draw.normal(size=(n_samples, n_in)), draw.normal(size=(n_samples, n_out))
    layer.forward(X)
    layer.backward(dY)
    assert np.allclose(layer.dW, sum(np.outer(x, dy) for x, dy in zip(X, dY, strict=True)))
    assert np.allclose(layer.db, dY.sum(axis=0), rtol=0, atol=1e-13)


@in_random_cases
@given(sizes, sizes, sizes, st.integers(0, 99))
def test_two_linear_layers_without_an_activation_are_one(n_in, n_hidden, n_out, seed):
    first, second = linear(n_in, n_hidden, seed), linear(n_hidden, n_out, seed + 5)
    one = linear(n_in, n_out)
    one.W[:], one.b[:] = first.W @ second.W, first.b @ second.W + second.b
    x, dy = rng(seed).normal(size=(3, n_in)), rng(seed).normal(size=(3, n_out))
    assert np.allclose(second.forward(first.forward(x)), one.forward(x))
    assert np.allclose(first.backward(second.backward(dy)), one.backward(dy))


def test_a_sparse_batch_gives_what_the_dense_one_gives():
    X = rng(3).normal(size=(6, 4)) * (rng(4).random((6, 4)) < 0.3)
    dY = rng(5).normal(size=(6, 3))
    dense, sparse = linear(4, 3), linear(4, 3)
    y = dense.forward(X)
    assert np.allclose(sparse.forward(csr_matrix(X)), y, rtol=0, atol=1e-14)
    assert np.allclose(sparse.forward(csr_matrix(X), train=False), y, rtol=0, atol=1e-14)
    dense.backward(dY)
    slot = sparse.dW
    assert sparse.backward(dY, need_dx=False) is None
    assert np.allclose(sparse.dW, dense.dW, rtol=0, atol=1e-14)
    assert np.array_equal(sparse.db, dense.db)
    assert sparse.dW is slot


def test_without_a_bias_it_is_a_product():
    layer = Linear(4, 3, rng=rng(), bias=False)
    assert layer.param_names == ("W",)
    x = rng(1).normal(size=(5, 4)).astype(np.float32)
    assert np.array_equal(layer.forward(x), x @ layer.W)


def test_gain_multiplies_the_draw():
    one, tenth = Linear(4, 3, rng=rng()), Linear(4, 3, rng=rng(), gain=0.1)
    assert np.allclose(tenth.W, 0.1 * one.W)


def test_every_initializer_can_be_named():
    for init in INITIALIZERS:
        layer = Linear(6, 3, rng=rng(), init=init, dtype=np.float64)
        assert np.array_equal(layer.W, INITIALIZERS[init](6, 3, rng()))
        assert np.all(layer.b == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_in": 0}, "^n_in must be at least 1, got 0"),
        ({"n_out": -1}, "^n_out must be at least 1, got -1"),
        ({"init": "magic"}, "^init must be one of he_normal, .*, got 'magic'"),
        ({"gain": np.inf}, "^gain must be finite, got inf"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Linear(**{"n_in": 2, "n_out": 3, "rng": rng(), **options})
