from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from minidl.gradcheck import GradientReport, check_gradients, jacobian
from minidl.layers import (
    ACTIVATIONS,
    LAYERS,
    BatchNorm,
    Dropout,
    GaussianNoise,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    ParametricMix,
    ReLU,
    Residual,
    Scale,
    SiLU,
    Tanh,
)
from minidl.losses import LOSSES, MSE, Huber, Loss, Poisson, SoftmaxCrossEntropy
from minidl.model import Sequential


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch(n: int = 6, n_in: int = 4) -> np.ndarray:
    return rng(3).normal(size=(n, n_in))


def failures(report: GradientReport) -> set[str]:
    return {f"{row.layer} {row.name}" for row in report.rows if not row.passed}


class TransposedProduct(Linear):
    def backward(self, dy, need_dx=True):
        super().backward(dy, need_dx)
        return dy @ self.W


class ReversedColumns(Linear):
    def backward(self, dy, need_dx=True):
        dx = super().backward(dy, need_dx)
        self.dW[:] = self.dW[:, ::-1].copy()
        return dx


class ForgottenBias(Linear):
    def backward(self, dy, need_dx=True):
        kept = self.db.copy()
        dx = super().backward(dy, need_dx)
        self.db[:] = kept
        return dx


class StaleCache(Linear):
    def forward(self, x, train=True):
        y = super().forward(x, train)
        if train:
            self.first_x = x = getattr(self, "first_x", x)
            self.save(x, *self._saved[1:])
        return y


class AddedGradient(Linear):
    def backward(self, dy, need_dx=True):
        kept = self.dW.copy()
        dx = super().backward(dy, need_dx)
        self.dW += kept
        return dx


class ReboundGradient(Linear):
    def backward(self, dy, need_dx=True):
        self.dW = self.dW.copy()
        return super().backward(dy, need_dx)


class MissingMean(LayerNorm):
    def backward(self, dy, need_dx=True):
        x_hat, r = self._saved
        super().backward(dy, need_dx)
        g = dy * self.gamma
        return r * (g - x_hat * self._mean(g * x_hat))


class WrongSign(Tanh):
    def backward(self, dy, need_dx=True):
        return -super().backward(dy, need_dx)


class FactorOfTwo(Scale):
    def backward(self, dy, need_dx=True):
        dx = super().backward(dy, need_dx)
        self.dgamma *= 2
        return dx


class UnscaledDropout(Dropout):
    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx) * (1 - self.p)


class ForgottenSkip(Residual):
    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx) - dy


class WrongShape(Tanh):
    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx)[:, :1]


class NotANumber(Tanh):
    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx) * np.nan


class SummedLoss(SoftmaxCrossEntropy):
    def __call__(self, logits, targets, sample_weight=None, total_weight=None):
        loss, dlogits = super().__call__(logits, targets, sample_weight, total_weight)
        return loss, dlogits * len(logits)


def square(make: type[Linear]) -> Linear:
    return make(4, 4, rng=rng(), dtype=np.float64)


FAULTS: list[tuple[Layer, set[str]]] = [
    (square(TransposedProduct), {"x"}),
    (square(ReversedColumns), {"W"}),
    (square(ForgottenBias), {"b"}),
    (square(StaleCache), {"W"}),
    (square(AddedGradient), {"W"}),
    (square(ReboundGradient), {"W"}),
    (MissingMean(4), {"x"}),
    (WrongSign(), {"x"}),
    (FactorOfTwo(4), {"gamma"}),
    (UnscaledDropout(0.5, rng=rng()), {"x"}),
    (ForgottenSkip([Tanh()]), {"x"}),
    (WrongShape(), {"x"}),
    (NotANumber(), {"x"}),
]


@pytest.mark.parametrize(
    ("layer", "names"), FAULTS, ids=[type(layer).__name__ for layer, _ in FAULTS]
)
def test_a_planted_fault_is_found_and_named_and_nothing_else(layer, names):
    alone = check_gradients(layer, batch())
    title = type(layer).__name__
    assert failures(alone) == {f"{title} {name}" for name in names}
    assert not alone.passed

    inside = [Linear(4, 4, rng=rng(1)), layer, BatchNorm(4), Linear(4, 3, rng=rng(2))]
    for one in (layer, *layer.layers):
        for name in one.param_names:
            setattr(one, name, getattr(one, name).astype(np.float32))
            setattr(one, f"d{name}", getattr(one, f"d{name}").astype(np.float32))
    if title == "WrongShape":
        return
    report = check_gradients(Sequential(inside), batch(), SoftmaxCrossEntropy(), np.arange(6) % 3)
    named = failures(report) - {"model params"}
    assert named == {f"1 {title} {name}" for name in names}, f"\n{report}"


def test_a_fault_of_the_head_is_named_as_such():
    model = Sequential([Linear(4, 3, rng=rng())])
    report = check_gradients(model, batch(), SummedLoss(), np.arange(6) % 3)
    assert failures(report) == {"SummedLoss logits", "model params"}


def test_a_gradient_outside_the_vector_of_the_model_fails_it():
    model = Sequential([ReboundGradient(4, 3, rng=rng())])
    assert "model params" in failures(check_gradients(model, batch()))


def test_kinks_are_left_out_wherever_they_lie_and_all_else_is_exact():
    offsets = np.array([0, 0.1, 1 / 3, 0.45, 0.5, 0.55, 0.9, 0.999, 1.001, 3, 1e5])
    x = 1e-5 * np.concatenate([offsets, -offsets])[:, None]
    for layer in (ReLU(), LeakyReLU(0.9)):
        (row,) = check_gradients(layer, x).rows
        assert row.passed
        assert row.n_compared + row.n_kinks == x.size
        assert 8 <= row.n_kinks <= 18
    (row,) = check_gradients(SiLU(), x).rows
    assert row.n_kinks == 0


def test_an_array_of_kinks_only_is_marked_as_such():
    report = check_gradients(ReLU(), np.zeros((2, 2)))
    assert (report.rows[0].n_kinks, report.rows[0].n_compared) == (4, 0)
    assert "pass (kinks only)" in str(report)


def test_a_jump_of_the_second_derivative_is_a_kink_too():
    z = np.array([[1.0], [0.3], [-1.0], [2.0]])  # Huber's parabola ends at 1 and -1
    *_, row = check_gradients(Identity(), z, Huber(), np.zeros(4)).rows
    assert row.name == "logits"
    assert row.passed
    assert row.n_kinks == 2


def test_sharp_bends_are_no_kinks():
    class Wave(Layer):
        def forward(self, x, train=True):
            self.save(x)
            return np.sin(10 * x)

        def backward(self, dy, need_dx=True):
            (x,) = self.saved()
            return 10 * np.cos(10 * x) * dy

    (row,) = check_gradients(Wave(), batch()).rows
    assert row.passed
    assert row.n_kinks == 0


def test_gradients_that_are_zero_pass_and_small_errors_in_them_do_not():
    class Tiny(Linear):
        def backward(self, dy, need_dx=True):
            dx = super().backward(dy, need_dx)
            self.db += 1e-6
            return dx

    class Constant(Layer):
        def forward(self, x, train=True):
            self.save()
            return np.ones_like(x)

        def backward(self, dy, need_dx=True):
            self.saved()
            return np.zeros_like(dy)

    assert check_gradients(Constant(), batch()).passed
    assert failures(check_gradients(square(Tiny), batch())) == {"Tiny b"}


def test_a_gradient_that_is_zero_but_for_rounding_passes():
    class Shift(Layer):
        param_names = ("b",)

        def __init__(self):
            self.b, self.db = np.full(1, 3.0), np.zeros(1)

        def forward(self, x, train=True):
            self.save()
            return x + self.b

        def backward(self, dy, need_dx=True):
            self.saved()
            self.db[:] = dy.sum()
            return dy

    # The same shift of all logits does not change their softmax.
    report = check_gradients(
        Sequential([Shift()]), batch(), SoftmaxCrossEntropy(), np.arange(6) % 4
    )
    assert report.passed, f"\n{report}"


def test_the_model_given_is_left_alone():
    model = Sequential(
        [Linear(4, 5, rng=rng()), BatchNorm(5), Dropout(0.5, rng=rng()), Linear(5, 1, rng=rng())]
    )
    before = model.params.copy(), model.grads.copy(), model.buffers.copy()
    x = batch().astype(np.float32)
    report = check_gradients(model, x, MSE(), np.arange(6.0))
    assert report.passed, f"\n{report}"
    after = model.params, model.grads, model.buffers
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.params.dtype == np.float32
    assert np.shares_memory(model.layers[0].W, model.params)
    assert np.array_equal(x, batch().astype(np.float32))


def test_layers_within_layers_have_rows_of_their_own():
    inside = Residual([LayerNorm(4), Residual([Linear(4, 4, rng=rng()), Tanh()])])
    alone = {f"{row.layer} {row.name}" for row in check_gradients(inside, batch()).rows}
    assert alone == {
        "0 LayerNorm gamma", "0 LayerNorm beta", "1.0 Linear W", "1.0 Linear b", "Residual x"
    }  # fmt: skip
    rows = check_gradients(Sequential([Tanh(), inside]), batch()).rows
    assert [f"{row.layer} {row.name}" for row in rows] == [
        "0 Tanh x", "1.0 LayerNorm gamma", "1.0 LayerNorm beta", "1.1.0 Linear W",
        "1.1.0 Linear b", "1 Residual x", "model params",
    ]  # fmt: skip


def test_a_sparse_batch_checks_parameters():
    model = Sequential([Linear(4, 5, rng=rng()), Tanh(), Linear(5, 1, rng=rng())])
    report = check_gradients(model, csr_matrix(np.maximum(batch(), 0)), Poisson(), np.arange(6.0))
    assert report.passed, f"\n{report}"
    assert "0 Linear x" not in {f"{row.layer} {row.name}" for row in report.rows}


def test_a_sample_of_entries_is_enough_where_arrays_are_large():
    model = Sequential([Linear(40, 30, rng=rng()), Tanh(), Linear(30, 3, rng=rng())])
    report = check_gradients(
        model, batch(n_in=40), SoftmaxCrossEntropy(), np.arange(6) % 3, max_entries=10
    )
    assert report.passed
    assert {row.n_compared for row in report.rows} == {10, 8, 3}
    sampled = check_gradients(ReversedColumns(40, 30, rng=rng()), batch(n_in=40), max_entries=10)
    assert failures(sampled) == {"ReversedColumns W"}


def test_the_report_is_a_table():
    report = check_gradients(square(ReversedColumns), batch())
    header, *lines = str(report).splitlines()
    assert header.split() == "layer name shape error worst entry kinks".split()
    assert repr(report) == str(report) and max(map(len, str(report).splitlines())) < 80
    assert [(line.split()[0], line.split()[1], line.split()[-1]) for line in lines] == [
        ("ReversedColumns", "W", "FAIL"),
        ("ReversedColumns", "b", "pass"),
        ("ReversedColumns", "x", "pass"),
    ]
    worst = report.rows[0].worst
    assert str(worst) in lines[0]
    assert len(worst) == 2


def test_a_head_needs_labels():
    with pytest.raises(ValueError, match=r"^labels are needed with a loss function"):
        check_gradients(Tanh(), batch(), MSE())


def test_jacobian_of_a_model_multiplies_those_of_its_layers():
    layers = [Linear(4, 5, rng=rng(), dtype=np.float64), Linear(5, 3, rng=rng(), dtype=np.float64)]
    product = layers[1].W.T @ layers[0].W.T
    x = batch()[0]
    assert np.allclose(jacobian(Sequential(layers), x), product, rtol=1e-13)
    with pytest.raises(ValueError, match="x must be one example"):
        jacobian(layers[0], batch())
    with pytest.raises(ValueError, match=r"BatchNorm has no Jacobian"):
        jacobian(Sequential([Linear(4, 5, rng=rng()), Residual([BatchNorm(5)])]), x)


def test_jacobian_leaves_the_layer_alone():
    layer = square(Linear)
    layer.forward(batch())
    saved = layer._saved
    jacobian(layer, batch()[0])
    assert layer._saved is saved
    assert np.all(layer.dW == 0)


def draw_layer(data: st.DataObject, n_in: int, dtype: Any, depth: int = 0) -> Layer:
    """Any registered layer that takes n_in features."""
    seed = rng(data.draw(st.integers(0, 10**6), label="seed"))
    name = data.draw(st.sampled_from(sorted(LAYERS)), label="layer")
    make: Any = LAYERS[name]
    if name == "linear":
        return Linear(n_in, data.draw(st.integers(1, 5)), rng=seed, dtype=dtype)
    if name == "dropout":
        return Dropout(data.draw(st.floats(0, 0.9)), rng=seed)
    if name == "gaussian_noise":
        return GaussianNoise(data.draw(st.floats(0, 2)), rng=seed)
    if name == "parametric":
        return ParametricMix(n_in, data.draw(st.sampled_from(sorted(ACTIVATIONS))), dtype=dtype)
    if name == "residual":
        if depth == 2:
            return Identity()
        inside: list[Layer] = []
        n = n_in
        for _ in range(data.draw(st.integers(1, 2))):
            inside.append(draw_layer(data, n, dtype, depth + 1))
            n = inside[-1].output_size(n)
        return Residual([*inside, Linear(n, n_in, rng=seed, dtype=dtype)])
    return make() if name in ACTIVATIONS else make(n_in, dtype=dtype)


def draw_targets(loss_function: Loss, n: int, n_outputs: int, seed: int) -> np.ndarray:
    if isinstance(loss_function, SoftmaxCrossEntropy):
        return rng(seed).integers(0, n_outputs, n)
    return rng(seed).integers(0, 2, (n, n_outputs)).astype(float)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_two_hundred_random_stacks(data):
    n, n_in = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 5))
    seed = data.draw(st.integers(0, 10**6))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x: Any = rng(seed).normal(size=(n, n_in))
    layers: list[Layer] = []
    if data.draw(st.booleans(), label="sparse"):
        x = csr_matrix(x * (rng(seed).random(x.shape) < 0.5))
        layers.append(Linear(n_in, data.draw(st.integers(1, 5)), rng=rng(seed), dtype=dtype))
    size = layers[0].output_size(n_in) if layers else n_in
    for _ in range(data.draw(st.integers(1, 5))):
        layers.append(draw_layer(data, size, dtype))
        size = layers[-1].output_size(size)
    loss_function = LOSSES[data.draw(st.sampled_from(sorted(LOSSES)), label="loss_function")]()
    model = Sequential(layers)
    model.params += 0.3 * rng(seed).normal(size=model.params.size).astype(model.params.dtype)
    targets = draw_targets(loss_function, n, size, seed)
    report = check_gradients(model, x, loss_function, targets, tolerance=1e-6, max_entries=12)
    assert report.passed, f"\n{report}"
