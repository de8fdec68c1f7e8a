"""The losses of two small runs, written down: whatever moves them changed the arithmetic.

Data, weights and order are formulas, so that no random generator has a say. To see the figures of
today: `python -c "import test_golden as t; print(t.losses_of(*t.classifier()))"` in this folder.
"""

from __future__ import annotations

import numpy as np
import pytest

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy
from minidl.layers import GELU, BatchNorm, LayerNorm, Residual, Scale, Tanh
from minidl.losses import MSE
from minidl.optimizers import AdamW

WIDTHS = np.array([0.7, 1.3, 0.9, 1.1, 0.8, 1.2])


def linear(n_in, n_out):
    return Linear(n_in, n_out, rng=np.random.default_rng(0))


def waves(n, phase=0.0):
    return np.sin(np.arange(n) * 1.7 + phase)


def classifier():
    model = Sequential([linear(6, 12), ReLU(), linear(12, 8), Tanh(), linear(8, 4)])
    model.params[:] = 0.5 * waves(model.params.size)
    optimizer = SGD(0.1, 0.9, True, weight_decay=1e-3, clip_grad_norm=1.0, groups=model.groups)
    return model, SoftmaxCrossEntropy(label_smoothing=0.05), optimizer


def regressor():
    inside = [LayerNorm(12), linear(12, 12), GELU()]
    model = Sequential([Scale(6), linear(6, 12), BatchNorm(12), Residual(inside), linear(12, 1)])
    for group in model.groups:
        part = model.params[group.slice]
        part[:] = (group.name == "scales") + 0.3 * waves(part.size, 1.0)
    optimizer = AdamW(0.02, weight_decay=0.1, groups=model.groups)
    return model, MSE(), optimizer


def losses_of(model, loss_function, optimizer):
    x = waves(60 * 6).reshape(60, 6).astype(np.float32) * WIDTHS.astype(np.float32)
    y = x @ WIDTHS if isinstance(loss_function, MSE) else np.arange(60) * 7 % 60 // 15
    losses = []
    for step in range(10):
        rows = (np.arange(20) * 3 + step) % 60
        logits = model.forward(x[rows])
        loss, dlogits = loss_function(logits, y[rows])
        model.backward(dlogits)
        optimizer.step(model.params, model.grads)
        losses.append(loss)
    return losses


RUNS = {
    "classifier": (classifier, [
        1.4171493, 1.4235577, 1.3927882, 1.3802007, 1.3857299,
        1.3640976, 1.3823815, 1.3657188, 1.3481158, 1.3854824,
    ]),
    "regressor": (regressor, [
        0.9265880, 0.1742009, 0.0888190, 0.2553996, 0.3983895,
        0.1351948, 0.0625977, 0.1309673, 0.0488031, 0.0915015,
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_written_down(name):
    make, expected = RUNS[name]
    assert losses_of(*make()) == pytest.approx(expected, rel=1e-6, abs=1e-6)
