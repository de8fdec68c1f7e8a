from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from minidl.layers.initializers import INITIALIZERS
from minidl.layers.linear import Init

N_IN, N_OUT = 300, 200
VARIANCES = {"he": 2 / N_IN, "glorot": 2 / (N_IN + N_OUT), "lecun": 1 / N_IN}


def draw(name: str, n_in: int = N_IN, n_out: int = N_OUT, seed: int = 0) -> np.ndarray:
    return INITIALIZERS[name](n_in, n_out, np.random.default_rng(seed))


def test_the_names_that_linear_takes_are_the_registry():
    assert get_args(Init) == tuple(INITIALIZERS)


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("form", ["normal", "uniform"])
def test_mean_and_variance(name, form):
    W = draw(f"{name}_{form}")
    deviation = np.sqrt(VARIANCES[name])
    assert W.shape == (N_IN, N_OUT)
    assert abs(W.mean()) < 4 * deviation / np.sqrt(W.size)
    assert W.std() == pytest.approx(deviation, rel=0.012)  # four standard errors


@pytest.mark.parametrize("name", VARIANCES)
def test_uniform_is_bounded_and_normal_is_not(name):
    limit = np.sqrt(3 * VARIANCES[name])
    assert 0.99 * limit < np.abs(draw(f"{name}_uniform")).max() <= limit
    assert np.abs(draw(f"{name}_normal")).max() > 1.5 * limit


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 4), (4, 7), (5, 5), (1, 3)])
def test_orthogonal_has_orthonormal_rows_or_columns(n_in, n_out):
    W = draw("orthogonal", n_in, n_out)
    assert W.shape == (n_in, n_out)
    gram = W.T @ W if n_in >= n_out else W @ W.T
    assert np.allclose(gram, np.eye(min(n_in, n_out)), atol=1e-14)


def test_orthogonal_is_not_biased_to_a_sign():
    corners = [draw("orthogonal", 3, 3, seed)[0, 0] for seed in range(400)]
    assert abs(np.mean(corners)) < 4 * np.sqrt(1 / 3 / 400)


def test_zeros_and_seeds():
    assert np.all(draw("zeros") == 0)
    for name in set(INITIALIZERS) - {"zeros"}:
        assert np.array_equal(draw(name, 4, 3), draw(name, 4, 3))
        assert not np.array_equal(draw(name, 4, 3), draw(name, 4, 3, seed=1))
