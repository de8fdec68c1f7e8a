from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy, Training, blas
from minidl.data.batches import Rows
from minidl.layers import BatchNorm, Dropout, LayerNorm, ParametricMix, Residual, Tanh
from minidl.optimizers import Adam
from minidl.parallel import BatchStep
from minidl.ranks import shard_bounds, tree_sum

N = 61


def build(*inside, dtype=np.float64):
    rng = np.random.default_rng(0)
    first, last = Linear(6, 20, rng=rng, dtype=dtype), Linear(20, 3, rng=rng, dtype=dtype)
    return Sequential([first, *inside, ReLU(), last])


def noise():
    return Dropout(0.4, rng=np.random.default_rng(1))


def nested(dtype=np.float64):
    rng = np.random.default_rng(2)
    layers = [
        Linear(20, 20, rng=rng, dtype=dtype),
        LayerNorm(20, dtype=dtype),
        Dropout(0.2, rng=rng),
        Residual([Linear(20, 20, rng=rng, bias=False, dtype=dtype), Tanh()]),
    ]
    return Residual(layers), ParametricMix(20, "silu", dtype=dtype)


def train(model, optimizer=None, sparse=False, **options):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N, 6)) * (rng.random((N, 6)) > 0.5)
    rows = X.astype(model.dtype), np.argmax(X[:, :3], axis=1), rng.uniform(0, 2, N)
    if sparse:
        rows = csr_matrix(rows[0]), *rows[1:]
    training = Training(
        model,
        SoftmaxCrossEntropy(label_smoothing=0.1),
        optimizer or SGD(0.1, momentum=0.9, weight_decay=1e-2, groups=model.groups),
        rows,
        **{"epochs": 3, "batch_size": 14, "rng": np.random.default_rng(4), **options},
    )
    losses = []
    while not training.finished:
        if (epoch := training.step()) is not None:
            losses.append(epoch.train["loss"])
    return model.params, model.buffers, losses


MODELS = {
    "plain": lambda: build(dtype=np.float32),
    "dropout": lambda: build(noise(), dtype=np.float32),
    "batch norm": lambda: build(BatchNorm(20, dtype=np.float64), noise()),
    "nested": lambda: build(*nested(np.float32), dtype=np.float32),
}


@pytest.mark.parametrize("shards", [2, 3, 5])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_over_shards_is_the_tree_of_what_replicas_give(name, shards):
    """Each shard by a replica of its own; gradients and statistics added by hand."""
    model = MODELS[name]()
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(22, 6)).astype(model.dtype), np.arange(22) % 3
    loss_function, sums, statistics = SoftmaxCrossEntropy(), [], []
    for start, stop in shard_bounds(22, shards):
        replica = model.replica()
        replica.begin_step(5, start)
        outputs = replica.forward(X[start:stop])
        _, d_outputs = loss_function(outputs, y[start:stop], None, 22)
        replica.backward(d_outputs)
        sums.append(replica.grads)
        statistics.append((stop - start) / 22 * replica.buffers.astype(np.float64))
    step = BatchStep(model, loss_function, SGD(0.1), shards=shards)
    step(Rows(X, y), 0.1, 5)
    assert model.grads.tobytes() == tree_sum(sums, np.empty_like(model.grads)).tobytes()
    merged = tree_sum(statistics, np.empty(model.buffers.size)).astype(model.dtype)
    assert model.buffers.tobytes() == merged.tobytes()


OPTIMIZERS = {
    "sgd": lambda model: None,
    "clip norm": lambda model: SGD(0.1, clip_grad_norm=0.2),
    "clip value": lambda model: SGD(0.1, clip_grad_value=0.01),
    "adam": lambda model: Adam(0.01, clip_grad_norm=1.0),
    "max norm": lambda model: SGD(0.1, groups=model.parameter_groups(max_norm=0.5)),
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shards", [2, 3])
def test_shards_are_the_same_arithmetic_up_to_rounding(shards, optimizer, l2, sparse):
    """With dropout as well: a row has its mask wherever it is run."""
    whole, cut = (build(noise(), *nested()) for _ in range(2))
    a = train(whole, OPTIMIZERS[optimizer](whole), sparse, l2=l2)
    b = train(cut, OPTIMIZERS[optimizer](cut), sparse, l2=l2, shards=shards)
    assert np.allclose(a[0], b[0], rtol=1e-9, atol=1e-10)
    assert np.allclose(a[2], b[2], rtol=1e-9)
    assert not np.array_equal(a[0], build(noise(), *nested()).params)


@pytest.mark.parametrize("batch_size", [2, 3, 4, 20])
def test_batches_too_small_for_all_shards_make_fewer(batch_size):
    """The last batches have 3, 4, 5 and 21 rows, and no shard a single one."""
    cut = train(build(BatchNorm(20, dtype=np.float64)), shards=4, batch_size=batch_size)
    assert np.isfinite(cut[0]).all()
    a, b = (train(build(noise()), shards=s, batch_size=batch_size) for s in (1, 4))
    assert np.allclose(a[0], b[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_statistics_of_the_shards_are_merged_by_their_rows(shards):
    rng = np.random.default_rng(0)
    norm = BatchNorm(6, momentum=1.0, dtype=np.float64)
    model = Sequential([norm, Linear(6, 3, rng=rng, dtype=np.float64)])
    X = rng.normal(3, 2, size=(13, 6))
    training = Training(
        model, SoftmaxCrossEntropy(), SGD(0.1), (X, np.arange(13) % 3), epochs=1, batch_size=20,
        rng=rng, shards=shards, order=lambda epoch: np.arange(13),
    )  # fmt: skip
    training.step()
    assert np.allclose(norm.running_mean, X.mean(axis=0), rtol=1e-12)
    parts = [X[a:b] for a, b in shard_bounds(13, shards)]
    var = sum(len(part) / 13 * part.var(axis=0, ddof=1) for part in parts)
    assert np.allclose(norm.running_var, var, rtol=1e-12)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 100])
def test_bounds_of_shards_tile_and_are_even(n, n_parts):
    bounds = shard_bounds(n, n_parts)
    assert len(bounds) == n_parts and bounds[0][0] == 0 and bounds[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n", range(1, 18))
def test_sums_are_a_fixed_tree_of_which_aligned_blocks_are_parts(n):
    def tree(parts):
        while len(parts) > 1:
            alone = parts[len(parts) // 2 * 2 :]
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + alone
        return parts[0]

    rng = np.random.default_rng(n)
    arrays = rng.normal(size=(n, 50)).astype(np.float32) * 10.0 ** rng.integers(-5, 5, (n, 1))
    expected = tree(list(arrays))
    for place in (0, n // 2, n - 1):  # the sum may replace any of them
        given = arrays.copy()
        assert tree_sum(given, given[place]).tobytes() == expected.tobytes()
        others = np.arange(n) != place
        assert np.array_equal(given[others], arrays[others])
    for size in (1, 2, 4, 8):  # as ranks would that hold a block each
        starts = range(0, n, size)
        blocks = [tree_sum(arrays[i : i + size], np.empty_like(arrays[0])) for i in starts]
        assert tree_sum(blocks, np.empty_like(arrays[0])).tobytes() == expected.tobytes()


def test_a_step_holds_a_gradient_for_each_level_of_the_tree_and_no_more():
    model = build(dtype=np.float32)
    step = BatchStep(model, SoftmaxCrossEntropy(), SGD(0.1), shards=256)
    X, y = np.zeros((512, 6), model.dtype), np.arange(512) % 3
    tracemalloc.start()
    step(Rows(X, y), 0.1, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * model.grads.nbytes + 30_000


def test_threads_are_for_steps_with_much_to_multiply(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert blas.automatic_threads(1_000_000 - 1) == 1
    assert blas.automatic_threads(1_000_000) == 8
