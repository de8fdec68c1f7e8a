"""L-BFGS over the flat vector, against closed forms and against the rest of the package."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Linear, ReLU, Sequential, evaluate, kernels
from minidl.errors import DivergenceError
from minidl.layers import ELU, BatchNorm, Dropout, Residual, Tanh
from minidl.lbfgs import fit_lbfgs
from minidl.losses import MSE, SoftmaxCrossEntropy

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 4))
Y = X @ rng.normal(size=(4, 2)) + 0.1 * rng.normal(size=(300, 2))
LABELS = (X[:, 0] * X[:, 1] > 0).astype(np.int64)


def linear(dtype=np.float64):
    return Sequential([Linear(4, 2, rng=np.random.default_rng(1), dtype=dtype)])


def deep(*layers):
    rng = np.random.default_rng(1)
    layers = layers or (Tanh(),)
    first, last = (Linear(*sizes, rng=rng, dtype=np.float64) for sizes in ((4, 8), (8, 2)))
    return Sequential([first, *layers, last])


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_linear_model_reaches_the_ridge_solution(weight_decay):
    model = linear()
    found = fit_lbfgs(model, MSE(), (X, Y), weight_decay=weight_decay, tolerance=1e-9)
    # The mean over rows and two outputs of squares, plus weight_decay / 2 * |W|**2.
    x, y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    W = np.linalg.solve(x.T @ x / len(x) + weight_decay * np.eye(4), x.T @ y / len(x))
    np.testing.assert_allclose(model.layers[0].W, W, rtol=1e-5)
    assert found.success and found.status == 0
    loss = evaluate(model, MSE(), X, Y)["loss"] + weight_decay / 2 * np.sum(W**2)
    assert found.fun == pytest.approx(loss)


def test_weights_count_rows_and_chunks_do_not_matter(monkeypatch):
    weight = rng.integers(0, 3, len(X))
    weighted, repeated, chunked = linear(), linear(), linear()
    fit_lbfgs(weighted, MSE(), (X, Y, weight.astype(float)), tolerance=1e-10)
    rows = np.repeat(np.arange(len(X)), weight)
    fit_lbfgs(repeated, MSE(), (X[rows], Y[rows]), tolerance=1e-10)
    monkeypatch.setattr("minidl.lbfgs.CHUNK_ROWS", 7)
    fit_lbfgs(chunked, MSE(), (X, Y, weight.astype(float)), tolerance=1e-10)
    np.testing.assert_allclose(weighted.params, repeated.params, rtol=1e-6)
    np.testing.assert_allclose(weighted.params, chunked.params, rtol=1e-6)


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_repeated_evaluations_have_the_bits_of_ordinary_ones(chunk_rows, monkeypatch):
    monkeypatch.setattr("minidl.lbfgs.CHUNK_ROWS", chunk_rows)
    found = []
    for record in (kernels.record, lambda step, x, labels: (step(), None)):
        monkeypatch.setattr(kernels, "record", record)
        model, losses = deep(ReLU()), []
        done = fit_lbfgs(
            model,
            SoftmaxCrossEntropy(),
            (X, LABELS),
            weight_decay=0.01,
            callback=lambda *figures, losses=losses: losses.append(figures),
        )
        found.append((losses, done.fun, model.params.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_learns_what_is_not_linear(dtype):
    rng = np.random.default_rng(1)
    model = Sequential([Linear(4, 16, rng=rng, dtype=dtype), ReLU(),
                        Linear(16, 2, rng=rng, dtype=dtype)])  # fmt: skip
    losses = []
    loss_function = SoftmaxCrossEntropy()
    found = fit_lbfgs(
        model, loss_function, (X.astype(dtype), LABELS), callback=lambda i, x: losses.append(x)
    )
    assert evaluate(model, loss_function, X.astype(dtype), LABELS)["accuracy"] > 0.95
    assert model.params.dtype == dtype and len(losses) == found.nit
    assert losses == sorted(losses, reverse=True)


def test_it_ends_at_its_limits():
    loss_function = SoftmaxCrossEntropy()
    few = fit_lbfgs(deep(), loss_function, (X, LABELS), max_iterations=3)
    assert few.nit == 3 and not few.success
    calls = fit_lbfgs(deep(), loss_function, (X, LABELS), max_evaluations=5)
    assert calls.nfev <= 6 and not calls.success


@pytest.mark.parametrize(
    "layer, name",
    [
        (Dropout(0.5, rng=rng), "layer 1 is Dropout, with noise"),
        (BatchNorm(8, dtype=np.float64), "layer 1 is BatchNorm, with batch statistics"),
        (Residual([Dropout(0.5, rng=rng)]), "layer 1.0 is Dropout"),
    ],
)
def test_what_is_random_is_refused_by_name(layer, name):
    with pytest.raises(ValueError, match=f"^model must be free of noise.*{name}"):
        fit_lbfgs(deep(layer), SoftmaxCrossEntropy(), (X, LABELS))


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be a class from 0 to 1"):
        fit_lbfgs(deep(), SoftmaxCrossEntropy(), (X, LABELS + 5))


def test_an_interrupted_run_keeps_the_last_weights_it_accepted():
    model, loss_function = deep(), SoftmaxCrossEntropy()
    losses = []

    def interrupt(iteration, loss):
        losses.append(loss)
        if iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_lbfgs(model, loss_function, (X, LABELS), callback=interrupt)
    assert evaluate(model, loss_function, X, LABELS)["loss"] == pytest.approx(losses[-1])


def test_a_loss_that_is_not_finite_at_the_start_is_said():
    model = linear()
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match="at the first weights"):
        fit_lbfgs(model, MSE(), (X * 1e200, Y))
    assert np.isfinite(model.params).all()


@pytest.mark.skipif(not kernels.has_crew(), reason="NumPy alone makes the products")
def test_each_point_is_computed_once_by_the_threads_that_pay(monkeypatch):
    model, threads, n_forwards = deep(ELU()), [], 0  # whose steps are not recorded

    def counted(x, W, *rest):
        nonlocal n_forwards
        n_forwards += W.shape == (4, 8) and len(x) == len(X)
        return affine(x, W, *rest)

    affine = kernels.affine
    monkeypatch.setattr("minidl.kernels.affine", counted)
    monkeypatch.setattr("minidl.lbfgs.blas.automatic_threads", lambda n: 3)
    found = fit_lbfgs(
        model,
        SoftmaxCrossEntropy(),
        (X, LABELS),
        max_iterations=5,
        callback=lambda *_: threads.append(kernels._compiled.threads()),
    )
    assert threads == [3] * 5 and n_forwards == found.nfev > 5
