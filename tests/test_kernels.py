"""The compiled kernels against the reference in NumPy, on one thread and on several."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl
from scipy.sparse import csr_array

from minidl import SGD, Adam, AdamW, Linear, ReLU, Sequential, SoftmaxCrossEntropy, kernels
from minidl.groups import ParameterGroup
from minidl.layers import BatchNorm, Sigmoid, SiLU, Tanh
from minidl.losses import SigmoidCrossEntropy
from minidl.training import Training

compiled = pytest.mark.skipif(
    kernels.name() != "compiled", reason="the C extension was not built: no C compiler"
)
crew = pytest.mark.skipif(not kernels.has_crew(), reason="NumPy's BLAS is no OpenBLAS")
SIZES = [1, 16, 17, 16_384, 100_003]  # short, around 16, and around what is shared out
THREADS = [1, 2, 3]
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture
def reference(monkeypatch):
    """Run a function with NumPy in place of the compiled kernels."""

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_compiled", kernels.NUMPY_ALONE)
            return function(*arguments)

    return run


def floats(rng, *shape, dtype=np.float32):
    x = rng.standard_normal(shape).astype(dtype)
    x[..., ::7] = 0
    return x


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@both_types
def test_elementwise_kernels_have_numpys_bits(dtype, size, n_threads, reference):
    rng = np.random.default_rng(size)
    x, dy = floats(rng, size, dtype=dtype), floats(rng, size, dtype=dtype)
    x[size // 2] = np.nan
    with kernels.threads(n_threads):
        y, dx = both_ways(ReLU(), x, dy)
    assert all(map(same_bits, (y, np.abs(dx)), map(np.abs, reference(both_ways, ReLU(), x, dy))))


def both_ways(layer, x, dy):
    return layer.forward(x[None])[0], layer.backward(dy[None])[0]


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layer", [Tanh(), Sigmoid(), SiLU()], ids=lambda each: each.kernel)
@both_types
def test_activations_agree_with_longer_numbers(dtype, layer, size, n_threads, reference):
    rng = np.random.default_rng(size)
    x, dy = 5 * floats(rng, size, dtype=dtype), floats(rng, size, dtype=dtype)
    x[::3] *= 1e-3
    exact = reference(both_ways, layer, x.astype(np.longdouble), dy.astype(np.longdouble))
    in_numpy = reference(both_ways, layer, x, dy)
    with kernels.threads(n_threads):
        found = both_ways(layer, x, dy)
    eps = float(np.finfo(dtype).eps)
    assert np.all(np.abs(found[0] - exact[0]) <= 4 * eps * np.abs(exact[0]))
    for one, right, other in zip(found, exact, in_numpy, strict=True):
        assert one.dtype == dtype
        assert np.abs(one - right).max() <= 8 * eps * np.abs(right).max()
        assert np.abs(one - other).max() <= 16 * eps * np.abs(right).max()


@compiled
@pytest.mark.parametrize("layer", [Tanh(), Sigmoid(), SiLU()], ids=lambda each: each.kernel)
@both_types
def test_the_ends_of_activations_are_numpys(dtype, layer, reference):
    x = np.array([0, -0.0, 1e-30, -1e-30, 80, -80, 1e4, -1e4, np.inf, np.nan, 1], dtype)
    y, dx = both_ways(layer, x, np.ones_like(x))
    with np.errstate(invalid="ignore"):  # SiLU and its slope where x is infinite
        expected, slopes = reference(both_ways, layer, x, np.ones_like(x))
    assert np.allclose(y, expected, rtol=4 * np.finfo(dtype).eps, atol=0, equal_nan=True)
    assert np.allclose(dx, slopes, rtol=1e-5, atol=1e-30, equal_nan=True)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 10), (128, 256), (257, 129), (1000, 2)])
@both_types
def test_rows_are_added_up_as_numpy_does(dtype, shape, n_threads, reference):
    rng = np.random.default_rng(0)
    y = floats(rng, *shape, dtype=dtype)
    sums, expected = (np.empty(shape[1], dtype) for _ in range(2))
    with kernels.threads(n_threads):
        kernels.sum_rows(y, sums)
    reference(kernels.sum_rows, y, expected)
    if shape[1] > 1:  # NumPy sums a single column pairwise
        assert same_bits(sums, expected)
    assert np.allclose(sums, y.sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", [(2, 2), (3, 65), (32, 10), (128, 256), (257, 130), (4000, 17)])
@both_types
def test_batch_norm_has_numpys_bits(dtype, shape, n_threads, reference):
    rng = np.random.default_rng(0)
    x, dy = floats(rng, 2, *shape, dtype=dtype)
    gamma, beta = floats(rng, 2, shape[1], dtype=dtype)

    def forward_and_backward():
        x_hat, y, dx = np.empty((3, *shape), dtype)
        dgamma, dbeta = np.empty((2, shape[1]), dtype)
        stats = kernels.batch_norm(x, gamma, beta, 1e-3, x_hat, y)
        kernels.batch_norm_backward(dy, x_hat, stats[2], gamma, dx, dgamma, dbeta)
        return x_hat, y, stats, dx, dgamma, dbeta

    with kernels.threads(n_threads):
        found = forward_and_backward()
    assert all(map(same_bits, found, reference(forward_and_backward)))


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 3, 2), (64, 50, 17), (300, 2000, 100)])
@both_types
def test_sparse_products_have_scipys_bits(dtype, m, k, n, n_threads, reference):
    rng = np.random.default_rng(0)
    dense = floats(rng, m + 1, k, dtype=dtype) * (rng.random((m + 1, k)) < 0.1)
    dense[m // 2] = 0  # an empty row
    x = csr_array(dense)
    W, b = floats(rng, k, n, dtype=dtype), floats(rng, n, dtype=dtype)
    dy = floats(rng, m + 1, n, dtype=dtype)

    def products():
        y, above, dW = np.full((2, m + 1, n), np.nan, dtype), None, np.full((k, n), np.nan, dtype)
        y, above = y
        kernels.sparse_affine(x, W, None, y)
        kernels.sparse_affine(x, W, b, above, True)
        kernels.sparse_gradient(x, dy, dW)
        return y, above, dW

    with kernels.threads(n_threads):
        found = products()
    for one, expected in zip(found, reference(products), strict=True):
        assert np.array_equal(one, expected)


@compiled
def test_sparse_arrays_that_do_not_fit_are_left_to_scipy():
    x = csr_array(np.arange(12, dtype=np.float32).reshape(3, 4))
    W, y, b = np.ones((4, 2), np.float32), np.ones((3, 2), np.float32), np.ones(2, np.float32)
    given = [x.data, x.indices, x.indptr, W, y, b]
    sparse, gradient = kernels._compiled.sparse, kernels._compiled.sparse_gradient
    assert sparse(*given, True)
    assert gradient(*given[:3], y, W)
    for i, array in enumerate(given):
        others = [array[:0], array[1:], array[None], array.astype(np.float64), None]
        others += [array.astype(np.int64), np.repeat(array, 2, axis=0)[::2]]
        for wrong in others:
            if (i, wrong is None) != (5, True):
                given_wrong = [*given[:i], wrong, *given[i + 1 :]]
                assert sparse(*given_wrong, False) is None or (i, len(wrong)) == (3, 0)
    for i, wrong in ((1, -1), (1, 4), (1, 2**31 - 1), (2, -1), (2, 12), (2, 2**31 - 1)):
        array = given[i].copy()
        array[1] = wrong
        arrays = [*given[:i], array, *given[i + 1 :]]
        assert sparse(*arrays, False) is None
        assert gradient(*arrays[:3], y, W) is None


FOUR, ROW = (4, 3), (3,)  # the shapes of rows and of one number a column


@compiled
@pytest.mark.parametrize(
    ("name", "shapes", "more"),
    [
        *((name, [FOUR, FOUR], ()) for name in ("relu", "sigmoid", "tanh", "silu")),
        *((f"{name}_backward", [FOUR] * 3, ()) for name in ("relu", "sigmoid", "tanh", "silu")),
        ("sum_rows", [FOUR, ROW], ()),
        ("batch_norm", [FOUR, ROW, ROW, FOUR, FOUR, (3, 3)], (1e-3,)),
        ("batch_norm_backward", [FOUR, FOUR, ROW, ROW, FOUR, ROW, ROW], ()),
        ("probabilities", [FOUR, FOUR], ()),
        ("sigmoid_loss", [FOUR] * 3, (0.5,)),
        ("matmul", [(4, 5), (5, 3), FOUR], (None, None, False)),
        ("matmul", [(1, 5), (5, 3), (1, 3)], (np.ones(3), None, False)),
        ("matmul", [(4, 5), (5, 1), (4, 1)], (None, None, False)),
        ("add_l2", [ROW, ROW], (0.1,)),
        ("sgd", [ROW, ROW, ROW], (0.1, 0.9, 0.0, 1.0, False)),
        ("adam", [ROW, ROW, ROW, ROW], (0.1, 0.9, 0.99, 1e-8, 0.0, 1.0, 1.0, 0.1, 0.01)),
    ],
)
@both_types
def test_arrays_that_do_not_fit_are_left_to_numpy(dtype, name, shapes, more):
    arrays = [np.ones(shape, dtype) for shape in shapes]
    more = [np.ones(3, dtype) if type(one) is np.ndarray else one for one in more]
    other_dtype = {np.float32: np.float64, np.float64: np.float32}[dtype]
    function = getattr(kernels._compiled, name)
    assert function(*arrays, *more)
    for i, shape in enumerate(shapes):
        # Another number of rows, of columns, of both at an equal size, of dimensions; no array.
        others = [(5, *shape[1:]), (*shape[:-1], 7), shape[::-1], (np.prod(shape),), (1, *shape)]
        for other in (*others, (1,), (0,), None):
            if other == shape or (name, i, other) == ("sum_rows", 0, (5, 3)):
                continue  # it fits
            wrong = None if other is None else np.ones(other, dtype)
            assert function(*arrays[:i], wrong, *arrays[i + 1 :], *more) is None, (i, other)
        for one in (other_dtype, np.int32, np.int64, f">f{np.dtype(dtype).itemsize}", "O"):
            wrong = np.ones(shape, one)
            assert function(*arrays[:i], wrong, *arrays[i + 1 :], *more) is None, (i, one)
        apart = np.ones((*shape, 2), dtype)[..., 0]
        assert function(*arrays[:i], apart, *arrays[i + 1 :], *more) is None, (i, "strides")


@compiled
@pytest.mark.parametrize(
    ("name", "access", "more"),
    [
        *((name, "rw", ()) for name in ("relu", "sigmoid", "tanh", "silu")),
        *((f"{name}_backward", "rrw", ()) for name in ("relu", "sigmoid", "tanh", "silu")),
        ("matmul", "rrw", (None, None, False)),
        ("sigmoid_loss", "rrw", (0.5,)),
        ("add_l2", "wr", (0.1,)),
        ("sgd", "wrw", (0.1, 0.9, 0.0, 1.0, False)),
        ("adam", "wrww", (0.1, 0.9, 0.99, 1e-8, 0.0, 1.0, 1.0, 0.1, 0.01)),
    ],
)
@both_types
def test_arrays_that_overlap_are_left_to_numpy(dtype, name, access, more):
    memory = np.ones(100, dtype)
    shape = (16,) if name in ("add_l2", "sgd", "adam") else (4, 4)
    for i in range(len(access)):
        for j in range(i):
            arrays = [np.ones(shape, dtype) for _ in access]
            arrays[i] = memory[40:56].reshape(shape)
            for shift in (-15, -1, 0, 15):
                arrays[j] = memory[40 + shift : 56 + shift].reshape(shape)
                done = getattr(kernels._compiled, name)(*arrays, *more)
                assert (done is None) == ("w" in access[i] + access[j]), (i, j, shift)


@pytest.mark.parametrize("width", [3, 6])
def test_batch_norm_refuses_rows_of_another_width(width):
    layer = BatchNorm(4, dtype=np.float32)
    with pytest.raises(ValueError):
        layer.forward(np.ones((8, width), np.float32))  # for 6: as many numbers as 12 rows of 4


def test_sums_of_rows_of_another_width_are_refused():
    with pytest.raises(ValueError):
        kernels.sum_rows(np.ones((4, 6), np.float32), np.ones(3, np.float32))


def test_a_product_into_its_own_factor():
    rng = np.random.default_rng(0)
    a, b = floats(rng, 64, 64), floats(rng, 64, 64)
    exact = a.astype(np.float64) @ b
    for out in (a, b):
        factors = [a.copy(), b.copy()]
        out = factors[0 if out is a else 1]
        kernels.matmul(*factors, out)
        assert np.allclose(out, exact, atol=1e-4)
    parts = floats(rng, 65, 64)
    x = parts[:64].copy()
    kernels.matmul(parts[:64], b, parts[1:])
    assert np.allclose(parts[1:], x.astype(np.float64) @ b, atol=1e-4)


def test_rows_taken_into_their_own_array():
    rng = np.random.default_rng(0)
    X = floats(rng, 40, 7)
    rows = rng.permutation(30)
    expected = X[rows]
    kernels.take_rows(X, rows, X[10:])
    assert np.array_equal(X[10:], expected)


def update(optimizer, p, g):
    """The vectors after three steps with these gradients."""
    p = p.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        finite = [optimizer.step(p, g) for _ in range(3)]
    return finite, p, *optimizer.averages.values()


@compiled
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SGD, {}),
        (SGD, {"momentum": 0.9}),
        (SGD, {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}),
        (SGD, {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True, "clip_grad_norm": 0.37}),
        (SGD, {"momentum": 0.9, "clip_grad_norm": 0.37}),
        (Adam, {}),
        (Adam, {"beta1": 0.0, "beta2": 0.95, "eps": 1e-3, "weight_decay": 1e-3}),
        (Adam, {"beta2": 0.99, "weight_decay": 1e-3, "clip_grad_norm": 0.37}),
        (AdamW, {"beta2": 0.99, "clip_grad_norm": 0.37}),
    ],
)
@both_types
def test_updates_have_numpys_bits(dtype, size, kind, settings, reference):
    rng = np.random.default_rng(size)
    p, g = floats(rng, size, dtype=dtype), floats(rng, size, dtype=dtype)
    groups = [ParameterGroup("all", slice(0, size))]
    for n_threads in THREADS:
        optimizers = [kind(0.03, groups=groups, **settings) for _ in range(2)]
        with kernels.threads(n_threads):  # the norm's bits depend on the threads of the BLAS
            finite, *found = update(optimizers[0], p, g)
            expected_finite, *expected = reference(update, optimizers[1], p, g)
        assert finite == expected_finite == [True] * 3
        assert all(map(same_bits, found, expected)), n_threads


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@both_types
def test_the_gradient_of_a_penalty_has_numpys_bits(dtype, size, n_threads, reference):
    rng = np.random.default_rng(size)
    p, found = floats(rng, size, dtype=dtype), floats(rng, size, dtype=dtype)
    expected = found.copy()
    with kernels.threads(n_threads):
        squares = kernels.add_l2(found, p, 0.37)
    same = pytest.approx(
        np.sum(p.astype(np.float64) ** 2), rel=1e-5 if dtype is np.float32 else 1e-13
    )
    assert squares == same == reference(kernels.add_l2, expected, p, 0.37)
    assert same_bits(found, expected)


@pytest.mark.parametrize("n_threads", THREADS)
def test_the_penalty_of_millions_of_floats_keeps_its_digits(n_threads):
    p = (0.05 * np.random.default_rng(0).standard_normal(3_000_000)).astype(np.float32)
    with kernels.threads(n_threads):
        squares = kernels.add_l2(np.zeros_like(p), p, 0.37)
    assert squares == pytest.approx(np.sum(p.astype(np.float64) ** 2), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 99_999])
@pytest.mark.parametrize("n_threads", THREADS)
@both_types
def test_an_update_sees_what_is_not_finite(dtype, bad, place, n_threads, reference):
    p, g = np.ones(100_000, dtype), np.zeros(100_000, dtype)
    g[place] = bad
    for run in (lambda f, *a: f(*a), reference):
        for optimizer in (SGD(0.1, 0.9), Adam(0.1)):
            with kernels.threads(n_threads):
                assert run(update, optimizer, p, g)[0] == [False] * 3


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (50, 7), (300, 784)])
def test_rows_are_taken(shape, dtype, n_threads):
    rng = np.random.default_rng(0)
    X = (100 * rng.random(shape)).astype(dtype)
    rows = rng.integers(0, shape[0], 2 * shape[0])
    out = np.zeros((len(rows), shape[1]), dtype)
    with kernels.threads(n_threads):
        assert kernels.take_rows(X, rows, out) is out
    assert np.array_equal(out, X[rows])


@compiled
@pytest.mark.parametrize("wrong", [-1, 4])
def test_rows_that_there_are_not_are_left_to_numpy(wrong):
    X, out = np.ones((4, 3), np.float32), np.zeros((2, 3), np.float32)
    assert not kernels._compiled.take_rows(X, np.array([0, wrong]), out)
    assert not out.any()


@compiled
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 2), (32, 10), (1024, 7), (100, 1000)])
@both_types
def test_softmax_agrees_with_longer_numbers(dtype, shape, scale, smoothing, reference):
    rng = np.random.default_rng(1)
    logits = (scale * rng.standard_normal(shape)).astype(dtype)
    labels = rng.integers(0, shape[1], shape[0])
    before = logits.copy()
    loss_function = SoftmaxCrossEntropy(smoothing)
    exact_loss, exact = reference(loss_function, logits.astype(np.longdouble), labels)
    numpy_loss, numpy_dlogits = reference(loss_function, logits, labels)
    eps = float(np.finfo(dtype).eps)
    for n_threads in THREADS:
        with kernels.threads(n_threads):
            loss, dlogits = loss_function(logits, labels)
        assert np.array_equal(logits, before)
        assert dlogits.dtype == dtype
        assert loss == pytest.approx(float(exact_loss), rel=16 * eps, abs=eps)
        assert loss == pytest.approx(numpy_loss, rel=16 * eps, abs=eps)
        assert np.abs(dlogits - exact).max() < 5 * eps / shape[0]
        assert np.abs(dlogits - numpy_dlogits).max() < 5 * eps / shape[0]


@compiled
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 1), (33, 1), (5, 7), (200, 1), (100_003, 1)])
@both_types
def test_sigmoid_cross_entropy_agrees_with_longer_numbers(dtype, shape, scale, reference):
    rng = np.random.default_rng(1)
    logits = (scale * rng.standard_normal(shape)).astype(dtype)
    targets = rng.integers(0, 2, shape).astype(dtype)
    targets[::3] = rng.random(targets[::3].shape)
    before = logits.copy(), targets.copy()
    loss_function = SigmoidCrossEntropy()
    exact_loss, exact = reference(loss_function, logits.astype(np.longdouble), targets)
    numpy_loss, numpy_dlogits = reference(loss_function, logits, targets)
    eps = float(np.finfo(dtype).eps)
    for n_threads in THREADS:
        with kernels.threads(n_threads):
            assert kernels.sigmoid_cross_entropy(logits, targets, 1.0) is not None
            loss, dlogits = loss_function(logits, targets)
        assert np.array_equal(logits, before[0]) and np.array_equal(targets, before[1])
        assert dlogits.dtype == dtype
        assert loss == pytest.approx(float(exact_loss), rel=4 * eps + 1e-13, abs=eps)
        assert loss == pytest.approx(numpy_loss, rel=16 * eps + 1e-13, abs=eps)
        assert np.abs(dlogits - exact).max() < 4 * eps / shape[0]
        assert np.abs(dlogits - numpy_dlogits).max() < 4 * eps / shape[0]


@compiled
@both_types
def test_the_ends_of_sigmoid_cross_entropy_are_numpys(dtype, reference):
    loss_function = SigmoidCrossEntropy()
    for z in (0, -0.0, 1e-30, 88, -88, 710, -710, 1e4, -1e4, np.inf, -np.inf, np.nan):
        for t in (0, 1, 0.25, np.nan):
            logits, targets = np.array([[z]], dtype), np.array([t], dtype)
            with np.errstate(invalid="ignore"):
                expected, slope = reference(loss_function, logits, targets)
            loss, dlogits = loss_function(logits, targets)
            close = {"rtol": 4 * np.finfo(dtype).eps, "atol": 1e-37, "equal_nan": True}
            assert np.allclose(loss, expected, **close), (z, t)
            assert np.allclose(dlogits, slope, **close), (z, t)
    assert loss_function(logits[:0], targets[:0])[0] == 0


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 10), (1000, 3), (40, 1000)])
@both_types
def test_probabilities_agree_with_numpy(dtype, shape, n_threads, reference):
    logits = 20 * floats(np.random.default_rng(0), *shape, dtype=dtype)
    expected = reference(kernels.softmax, logits)
    with kernels.threads(n_threads):
        p = kernels.softmax(logits)
    assert p.dtype == dtype
    assert np.abs(p - expected).max() < 20 * np.finfo(dtype).eps
    assert kernels.softmax(logits[:0]).shape == (0, shape[1])
    logits[-1, 0] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(kernels.softmax(logits)[-1]).all()
    assert shape[0] == 1 or not np.isnan(kernels.softmax(logits)[:-1]).any()


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@both_types
def test_what_is_not_finite_is_found(dtype, size, n_threads):
    x = np.full(size, np.finfo(dtype).max)
    with kernels.threads(n_threads):
        assert kernels.all_finite(x)
        assert kernels.all_finite(x[:0])
        assert kernels.all_finite(np.ones(3, np.int64))
        for place in (0, size // 2, size - 1):
            for bad in (np.nan, np.inf, -np.inf):
                x[place] = bad
                assert not kernels.all_finite(x)
                assert not kernels.all_finite(x[::-1])
            x[place] = 1


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (7, 2), (8, 1), (61, 10), (784, 256), (1000, 1001)])
@both_types
def test_a_row_times_a_matrix(dtype, k, n, n_threads):
    rng = np.random.default_rng(0)
    apart, W, b = floats(rng, k, 3, dtype=dtype), floats(rng, k, n + 2, dtype=dtype), floats(rng, n)
    b = b.astype(dtype)
    memory = np.full(n + 2, 7, dtype)
    for x in (apart[:, :1].T, np.ascontiguousarray(apart[:, 1])[None]):
        for columns in (W[:, 1:-1], np.ascontiguousarray(W[:, 2:])):
            exact = x.astype(np.longdouble) @ columns
            with kernels.threads(n_threads):
                assert kernels._compiled.matmul(x, columns, memory[None, 1:-1], b, None, True)
            bound = 30 * np.sqrt(k) * np.finfo(dtype).eps
            assert np.abs(memory[1:-1] - np.maximum(exact + b, 0)).max() < bound
            assert memory[0] == memory[-1] == 7  # it writes nowhere else


@compiled
def test_softmax_leaves_other_arrays_to_numpy():
    logits = np.zeros((4, 3), np.float32)
    labels = np.array([0, 1, 2, 0])
    fused = kernels.softmax_cross_entropy
    assert fused(logits, labels, 0.0, 0.25) is not None
    assert fused(logits.astype(np.float16), labels, 0.0, 0.25) is None
    assert fused(np.asfortranarray(logits), labels, 0.0, 0.25) is None
    assert fused(logits[:0], labels[:0], 0.0, 0.25) is None
    assert fused(logits, labels.astype(np.float64), 0.0, 0.25) is None
    assert fused(logits, np.array([0, 1, 2**64 - 1, 0], np.uint64), 0.0, 0.25) is None
    assert fused(logits, np.array([0, 1, 3, 0]), 0.0, 0.25) is None
    assert fused(logits, np.array([0, -1, 2, 0]), 0.0, 0.25) is None
    assert fused(logits, labels[:3], 0.0, 0.25) is None


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1, 1, 1),
        (128, 784, 256),
        (16, 100, 1000),
        (300, 20, 70),
        (64, 300, 3000),
        (33, 7, 1),
        (1001, 777, 1),
    ],
)
@pytest.mark.parametrize("transposed", ["", "a", "b"])
@both_types
def test_products(m, k, n, transposed, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    if transposed == "a":
        a = np.ascontiguousarray(a.T).T
    if transposed == "b":
        b = np.ascontiguousarray(b.T).T
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for n_threads in THREADS:
        out, again = np.full((m, n), np.nan, dtype), np.empty((m, n), dtype)
        with kernels.threads(n_threads):
            assert kernels.matmul(a, b, out) is out
            kernels.matmul(a, b, again)
        assert same_bits(out, again)
        assert np.abs(out - exact).max() < 1e-5 * np.sqrt(k) * 10


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 3, 2), (128, 784, 256), (1024, 54, 512), (64, 300, 3000), (37, 61, 1), (1001, 777, 1)],
)
@both_types
def test_affine_maps_and_what_is_fused_with_them(m, k, n, n_threads, dtype):
    rng = np.random.default_rng(0)
    x, W, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), n))
    mask = rng.standard_normal((m, n)).astype(dtype)
    mask[:, ::3] = 0
    exact = x.astype(np.float64) @ W.astype(np.float64)
    outs = [np.full((m, n), np.nan, dtype) for _ in range(4)]
    with kernels.threads(n_threads):
        assert kernels.affine(x, W, b, outs[0]) is outs[0]
        kernels.affine(x, W, None, outs[1])
        kernels.affine(x, W, b, outs[2], True)
        kernels.matmul(x, W, outs[3], mask)
    wanted = (exact + b, exact, np.maximum(exact + b, 0), np.where(mask > 0, exact, 0))
    for out, right in zip(outs, wanted, strict=True):
        assert np.abs(out - right).max() < 1e-5 * np.sqrt(k) * 10
    assert (outs[2] >= 0).all()
    assert not outs[3][mask <= 0].any()


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m, k, n", [(0, 60, 256), (0, 3, 2), (1, 0, 5), (3, 0, 5), (0, 0, 4)])
def test_products_without_rows_or_terms(m, k, n, dtype):
    a, b, bias = np.ones((m, k), dtype), np.ones((k, n), dtype), np.ones(n, dtype)
    out = np.full((m, n), np.nan, dtype)
    for _ in range(1000):  # reads and writes beyond the arrays would show
        assert np.array_equal(kernels.affine(a, b, bias, out), np.ones((m, n)))
        assert np.array_equal(kernels.matmul(a, b, out), np.zeros((m, n)))
        assert np.array_equal(kernels.matmul(a.T.copy().T, b, out), np.zeros((m, n)))


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@both_types
def test_products_with_a_single_column_of_a_matrix(dtype, n_threads):
    rng = np.random.default_rng(0)
    x, W, whole = floats(rng, 1001, 400, dtype=dtype), floats(rng, 400, 3), np.zeros((1001, 3))
    W, whole, b = W.astype(dtype), whole.astype(dtype), np.ones(1, dtype)
    mask = floats(rng, 1001, 1, dtype=dtype)
    exact = x.astype(np.longdouble) @ W[:, 1:2]
    arguments = x, W[:, 1:2], whole[:, 1:2]
    with kernels.threads(n_threads):
        assert kernels._compiled.matmul(*arguments, b, None, True)
        assert np.abs(whole[:, 1:2] - np.maximum(exact + 1, 0)).max() < 1e-3
        assert kernels._compiled.matmul(*arguments, None, mask, False)
        assert np.abs(whole[:, 1:2] - np.where(mask > 0, exact, 0)).max() < 1e-3
    assert not whole[:, ::2].any()


def test_products_into_parts_of_arrays():
    rng = np.random.default_rng(0)
    a, b = floats(rng, 200, 300)[:, 10:210], floats(rng, 200, 100)
    whole = np.zeros((200, 150), np.float32)
    with kernels.threads(2):
        kernels.matmul(a, b, whole[:, 20:120])
    assert np.allclose(whole[:, 20:120], a @ b, atol=1e-3)
    assert not whole[:, :20].any()
    assert not whole[:, 120:].any()


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_without_rows_writes_nothing(dtype):
    """The rows beside the empty part would be written over, also by the bias."""
    W, b, whole = np.ones((80, 256), dtype), np.ones(256, dtype), np.zeros((3, 256), dtype)
    kernels.affine(np.ones((0, 80), dtype), W, b, whole[1:1])
    kernels.matmul(np.ones((0, 80), dtype), W, whole[1:1])
    assert not whole.any()


@compiled
def test_wrong_shapes_are_refused():
    a = np.zeros((200, 100), np.float32)
    with kernels.threads(2), pytest.raises(ValueError):
        kernels.matmul(a, a, np.zeros((200, 100), np.float32))
    with pytest.raises(TypeError):
        kernels._compiled.relu(a)
    with pytest.raises(ValueError):
        kernels._compiled.set_threads(-1)


def all_thread_counts():
    return sorted(
        (each["filepath"], each["num_threads"]) for each in threadpoolctl.threadpool_info()
    )


def test_threads_are_given_back():
    before = all_thread_counts()
    with kernels.threads(2):
        assert kernels.threads_are_set() == kernels.has_crew()
        with kernels.threads(1):
            assert not kernels.has_crew() or kernels._compiled.threads() == 1
        assert not kernels.has_crew() or kernels._compiled.threads() == 2
    assert not kernels.threads_are_set()
    assert all_thread_counts() == before


def test_machines_of_many_cores():
    a = np.ones((300, 300), np.float32)
    out = np.empty_like(a)
    with kernels.threads(200):
        kernels.matmul(a, a, out)
        assert not kernels.has_crew() or kernels._compiled.threads() == kernels.MOST_THREADS
    assert (out == 300).all()


def test_several_python_threads_at_once():
    rng = np.random.default_rng(0)
    a, b = floats(rng, 300, 300), floats(rng, 300, 300)
    alone, *outs = (np.empty((300, 300), np.float32) for _ in range(5))

    def work(out):
        with kernels.threads(2):
            for _ in range(50):
                kernels.matmul(a, b, out)

    work(alone)
    crew = [threading.Thread(target=work, args=(out,)) for out in outs]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert all(same_bits(out, alone) for out in outs)


@crew
def test_each_python_thread_has_its_own_number():
    found = []

    def other():
        found.append(kernels._compiled.threads())
        with kernels.threads(3):
            found.append(kernels._compiled.threads())
            entered.set()
            left.wait(60)
            found.append(kernels._compiled.threads())
        found.append(kernels._compiled.threads())

    entered, left = threading.Event(), threading.Event()
    before = kernels._compiled.threads(), all_thread_counts()
    thread = threading.Thread(target=other)
    with kernels.threads(2):
        thread.start()
        assert entered.wait(60)
        assert kernels._compiled.threads() == 2
    left.set()
    thread.join()
    assert found == [0, 3, 3, 0]
    assert (kernels._compiled.threads(), all_thread_counts()) == before


def train(n_threads):
    rng = np.random.default_rng(0)
    X, y = floats(rng, 1000, 100), rng.integers(0, 10, 1000)
    model = Sequential([Linear(100, 300, rng=rng), ReLU(), Linear(300, 10, rng=rng)])
    optimizer = SGD(0.05, 0.9, nesterov=True, weight_decay=1e-4, groups=model.groups)
    loss_function = SoftmaxCrossEntropy(0.05)
    training = Training(model, loss_function, optimizer, (X, y), epochs=2, batch_size=128, rng=rng)
    losses = []
    with kernels.threads(n_threads):
        while not training.finished:
            epoch = training.step()
            if epoch is not None:
                losses.append(epoch.train["loss"])
    return model.params, losses


@pytest.mark.parametrize("n_threads", THREADS)
def test_a_training_repeats_its_bits_and_agrees_with_numpy(n_threads, reference):
    params, losses = train(n_threads)
    again, _ = train(n_threads)
    assert same_bits(params, again)
    _, expected = reference(train, 1)
    assert losses == pytest.approx(expected, rel=1e-5)


RACING = """
import sys, threading
import numpy as np
from minidl import kernels

sys.setswitchinterval(1e-5)
n, stopped = 10_000, False
good = np.arange(n) % 10
bad = np.where(np.arange(n) % 3, good, 2**40)
shared = good.copy()
x = np.random.default_rng(0).standard_normal((n, 10), np.float32)
out = np.empty_like(x)

def change():
    while not stopped:
        np.copyto(shared, bad)  # copies without Python's lock, as the kernels read
        np.copyto(shared, good)

assert kernels.softmax_cross_entropy(x, shared, 0.0, 1.0) is not None  # C takes such arrays
thread = threading.Thread(target=change)
thread.start()
with kernels.threads(2):
    for _ in range(3000):
        if sys.argv[1] == "labels":
            kernels.softmax_cross_entropy(x, shared, 0.0, 1.0)
        else:
            kernels.take_rows(x, shared, out)
stopped = True
thread.join()
"""


@compiled
@pytest.mark.parametrize("what", ["labels", "rows"])
def test_labels_and_rows_that_another_thread_changes_crash_nothing(what):
    run = [sys.executable, "-c", RACING, what]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(0,), (3,), (2_000_000,), (5, 7), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_zeros_begin_with_a_line_of_the_cache(shape, dtype):
    x = kernels.zeros(shape, dtype)
    assert x.shape == shape and x.dtype == dtype and not x.any()
    assert x.flags.c_contiguous and x.flags.writeable
    assert x.size == 0 or x.ctypes.data % 64 == 0


def test_the_vectors_of_a_training_begin_at_different_places_of_a_page():
    model, optimizer = Sequential([Linear(30, 40, rng=0)]), Adam()
    optimizer.step(model)
    vectors = [model.params, model.grads, *optimizer.averages.values()]
    places = [vector.ctypes.data % 4096 for vector in vectors]
    assert len(set(places)) == 4 and not any(place % 64 for place in places)


def test_the_kernels_can_be_turned_off():
    code = "from minidl import kernels; print(kernels.name())"
    environment = {**os.environ, "MINIDL_KERNELS": "numpy"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "numpy"


def test_an_extension_of_another_version_is_not_used_and_named():
    code = (
        "import sys, types; sys.modules['minidl._kernels'] = types.ModuleType('old'); "
        "from minidl import kernels; print(kernels.name())"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "MINIDL_KERNELS": ""}
    printed = subprocess.check_output(command, env=environment, text=True)
    assert printed == "numpy, since the C extension is of another version: install again\n"


@pytest.mark.parametrize("value, warned", [("", False), ("numpy", False), ("nmpy", True)])
def test_an_unknown_choice_of_kernels_is_pointed_out(value, warned):
    command = [sys.executable, "-c", "from minidl import kernels"]
    environment = {**os.environ, "MINIDL_KERNELS": value}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert ("MINIDL_KERNELS=nmpy is ignored: its only value is numpy" in done.stderr) == warned
