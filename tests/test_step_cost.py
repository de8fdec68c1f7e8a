"""What a step costs, counted in what does not jitter: calls and allocations, not time."""

import tracemalloc

import numpy as np
import pytest

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy, kernels
from minidl.training import Training


def training(n_hidden, batch_size):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50 * batch_size, 64)).astype(np.float32)
    y = rng.integers(0, 10, len(X))
    layers = [Linear(64, n_hidden, rng=rng), ReLU(), Linear(n_hidden, 10, rng=rng)]
    return Training(
        Sequential(layers),
        SoftmaxCrossEntropy(),
        SGD(0.01, 0.9),
        (X, y),
        epochs=10,
        batch_size=batch_size,
        rng=rng,
    )


@pytest.mark.skipif(
    kernels.name() != "compiled", reason="the C extension was not built: no C compiler"
)
def test_a_step_of_two_layers_makes_nine_calls_of_kernels_and_then_two(monkeypatch):
    calls = []

    class Counting:
        def __getattr__(self, name):
            return lambda *args: calls.append(name) or getattr(kernels._kernels, name)(*args)

    steps = training(32, 32)
    monkeypatch.setattr(kernels, "_compiled", Counting())
    steps.step()
    assert (calls.pop(0), "record" in calls) == ("take_rows", False)  # the first of its size
    first = sorted(calls)
    calls.clear()
    steps.step()
    assert (calls.pop(0), calls.pop(-2), sorted(calls)) == ("record", "recorded", first)
    assert sorted(calls) == ["matmul"] * 5 + ["sgd", "softmax", "sum_rows", "sum_rows"]
    calls.clear()
    steps.step()
    assert calls == ["replay", "sgd"]


def test_a_step_allocates_nothing_of_the_size_of_its_activations():
    steps = training(1024, 256)
    for _ in range(3):
        steps.step()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        steps.step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    activations = 256 * 1024 * 4
    assert peak - before < activations / 2  # NumPy alone makes a mask of bools
