"""The compiled kernels against the reference in NumPy, on one thread and on several."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy, kernels
from minidl.parallel import Crew
from minidl.training import Training

compiled = pytest.mark.skipif(
    kernels.name() != "compiled", reason="the C extension was not built: no C compiler"
)
SIZES = [1, 15, 16, 17, 1000, 16_384, 16_385, 100_003]  # short, and around what is shared out
THREADS = [1, 2, 3]


@pytest.fixture
def reference(monkeypatch):
    """Run a function with NumPy in place of the compiled kernels."""

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_compiled", None)
            return function(*arguments)

    return run


def floats(rng, *shape):
    x = rng.standard_normal(shape).astype(np.float32)
    x[..., ::7] = 0
    return x


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
def test_elementwise_kernels_have_numpys_bits(size, n_threads, reference):
    rng = np.random.default_rng(size)
    x, dy = floats(rng, size), floats(rng, size)
    x[size // 2] = np.nan
    y, expected = np.empty_like(x), np.empty_like(x)
    with kernels.threads(n_threads):
        kernels.relu(x, y)
        reference(kernels.relu, x, expected)
        assert same_bits(y, expected)
        dx = np.empty_like(x)
        kernels.relu_backward(dy, y, dx)
    expected = np.where(y > 0, dy, 0).astype(np.float32)
    assert np.array_equal(dx, expected)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 10), (128, 256), (257, 129), (1000, 2)])
def test_rows_are_added_up_as_numpy_does(shape, n_threads, reference):
    rng = np.random.default_rng(0)
    y = floats(rng, *shape)
    sums, expected = (np.empty(shape[1], np.float32) for _ in range(2))
    with kernels.threads(n_threads):
        kernels.sum_rows(y, sums)
    reference(kernels.sum_rows, y, expected)
    if shape[1] > 1:  # NumPy sums a single column pairwise
        assert same_bits(sums, expected)
    assert np.allclose(sums, y.sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", [(2, 2), (3, 65), (32, 10), (128, 256), (257, 130), (4000, 17)])
def test_batch_norm_has_numpys_bits(shape, n_threads, reference):
    rng = np.random.default_rng(0)
    (x, dy), (gamma, beta) = floats(rng, 2, *shape), floats(rng, 2, shape[1])

    def forward_and_backward():
        x_hat, y, dx = np.empty((3, *shape), np.float32)
        dgamma, dbeta = np.empty((2, shape[1]), np.float32)
        stats = kernels.batch_norm(x, gamma, beta, 1e-3, x_hat, y)
        kernels.batch_norm_backward(dy, x_hat, stats[2], gamma, dx, dgamma, dbeta)
        return x_hat, y, stats, dx, dgamma, dbeta

    with kernels.threads(n_threads):
        found = forward_and_backward()
    assert all(map(same_bits, found, reference(forward_and_backward)))


@compiled
@pytest.mark.parametrize("i", range(6))
def test_batch_norm_of_arrays_that_do_not_fit_is_left_to_numpy(i):
    arrays = [np.ones(shape, np.float32) for shape in ((4, 3), 3, 3, (4, 3), (4, 3), (3, 3))]
    assert kernels._compiled.batch_norm(*arrays, 1e-3)
    arrays[i] = np.ones(5, np.float32)
    assert not kernels._compiled.batch_norm(*arrays, 1e-3)


@compiled
@pytest.mark.parametrize("i", range(7))
def test_its_gradient_too(i):
    arrays = [np.ones(n, np.float32) for n in (12, 12, 3, 3, 12, 3, 3)]
    assert kernels._compiled.batch_norm_backward(*arrays)
    arrays[i] = np.ones(5, np.float32)
    assert not kernels._compiled.batch_norm_backward(*arrays)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        (0.1, 0.0, 0.0, 1.0, False),
        (0.1, 0.9, 0.0, 1.0, False),
        (0.03, 0.9, 1e-3, 1.0, True),
        (0.03, 0.9, 1e-3, 0.37, True),
        (0.03, 0.9, 0.0, 0.37, False),
    ],
)
def test_sgd_has_numpys_bits(size, n_threads, settings, reference):
    rng = np.random.default_rng(size)
    p, g, v = (floats(rng, size) for _ in range(3))
    expected_p, expected_v = p.copy(), v.copy()
    scratch = np.empty((2, size), np.float32)
    with kernels.threads(n_threads):
        assert kernels.sgd(p, g, v, *settings, scratch)
    assert reference(kernels.sgd, expected_p, g, expected_v, *settings, scratch)
    assert same_bits(p, expected_p)
    assert same_bits(v, expected_v)


@compiled
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        (0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 1.0),
        (0.01, 0.0, 0.95, 1e-3, 1e-3, 1.0, 1.0),
        (0.01, 0.9, 0.99, 1e-8, 1e-3, 0.37, 1.0),
        (0.01, 0.9, 0.99, 1e-8, 0.0, 0.37, 0.999),
    ],
)
def test_adam_has_numpys_bits(size, n_threads, settings, reference):
    rng = np.random.default_rng(size)
    p, g, m, v = (floats(rng, size) for _ in range(4))
    v = np.abs(v)
    expected_p, expected_m, expected_v = p.copy(), m.copy(), v.copy()
    scratch = np.empty((2, size), np.float32)
    with kernels.threads(n_threads):
        assert kernels.adam(p, g, m, v, *settings, scratch)
    assert reference(kernels.adam, expected_p, g, expected_m, expected_v, *settings, scratch)
    assert same_bits(p, expected_p)
    assert same_bits(m, expected_m)
    assert same_bits(v, expected_v)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 99_999])
@pytest.mark.parametrize("n_threads", THREADS)
def test_an_update_sees_what_is_not_finite(bad, place, n_threads, reference):
    g = np.zeros(100_000, np.float32)
    g[place] = bad
    scratch = np.empty((2, g.size), np.float32)
    for run in (lambda f, *a: f(*a), reference):
        p, v = np.ones_like(g), np.zeros_like(g)
        with kernels.threads(n_threads):
            assert not run(kernels.sgd, p, g, v, 0.1, 0.9, 0.0, 1.0, False, scratch)
        p, m, v = np.ones_like(g), np.zeros_like(g), np.zeros_like(g)
        settings = 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 1.0
        with kernels.threads(n_threads), np.errstate(invalid="ignore"):
            assert not run(kernels.adam, p, g, m, v, *settings, scratch)


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
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 2), (32, 10), (1024, 7), (100, 1000)])
def test_softmax_agrees_with_float64(shape, scale, smoothing, n_threads, reference):
    rng = np.random.default_rng(1)
    logits = (scale * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    before = logits.copy()
    loss_function = SoftmaxCrossEntropy(smoothing)
    exact_loss, exact = loss_function(logits.astype(np.float64), labels)
    with kernels.threads(n_threads):
        loss, dlogits = loss_function(logits, labels)
    numpy_loss, numpy_dlogits = reference(loss_function, logits, labels)
    assert np.array_equal(logits, before)
    assert dlogits.dtype == np.float32
    assert loss == pytest.approx(exact_loss, rel=2e-6, abs=1e-7)
    assert loss == pytest.approx(numpy_loss, rel=2e-6, abs=1e-7)
    assert np.abs(dlogits - exact).max() < 3e-7 / shape[0]
    assert np.abs(dlogits - numpy_dlogits).max() < 3e-7 / shape[0]


@compiled
def test_softmax_leaves_other_arrays_to_numpy():
    logits = np.zeros((4, 3), np.float32)
    labels = np.array([0, 1, 2, 0])
    fused = kernels.softmax_cross_entropy
    assert fused(logits, labels, 0.0, 0.25) is not None
    assert fused(logits.astype(np.float64), labels, 0.0, 0.25) is None
    assert fused(logits, labels.astype(np.int32), 0.0, 0.25) is None
    assert fused(logits, np.array([0, 1, 3, 0]), 0.0, 0.25) is None
    assert fused(logits, np.array([0, -1, 2, 0]), 0.0, 0.25) is None
    assert fused(logits, labels[:3], 0.0, 0.25) is None


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (128, 784, 256), (16, 100, 1000), (300, 20, 70), (64, 300, 3000)]
)
@pytest.mark.parametrize("transposed", ["", "a", "b"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(m, k, n, transposed, n_threads, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    if transposed == "a":
        a = np.ascontiguousarray(a.T).T
    if transposed == "b":
        b = np.ascontiguousarray(b.T).T
    out, again = np.full((m, n), np.nan, dtype), np.empty((m, n), dtype)
    with kernels.threads(n_threads):
        assert kernels.matmul(a, b, out) is out
        kernels.matmul(a, b, again)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert same_bits(out, again)
    assert np.abs(out - exact).max() < 1e-5 * np.sqrt(k) * 10


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 3, 2), (128, 784, 256), (1024, 54, 512), (64, 300, 3000)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
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
def test_wrong_shapes_are_refused():
    a = np.zeros((200, 100), np.float32)
    with kernels.threads(2), pytest.raises(ValueError):
        kernels.matmul(a, a, np.zeros((200, 100), np.float32))
    with pytest.raises(TypeError):
        kernels._compiled.relu(a)
    with pytest.raises(ValueError):
        kernels._compiled.set_threads(0)


def test_threads_are_given_back():
    before = {each["num_threads"] for each in threadpoolctl.threadpool_info()}
    with kernels.threads(2):
        with kernels.threads(1):
            assert kernels._compiled is None or kernels._compiled.set_threads(1) == 1
        assert kernels._compiled is None or kernels._compiled.set_threads(2) == 2
    assert kernels._compiled is None or kernels._compiled.set_threads(1) == 1
    assert {each["num_threads"] for each in threadpoolctl.threadpool_info()} == before


def test_machines_of_many_cores():
    a = np.ones((300, 300), np.float32)
    out = np.empty_like(a)
    with kernels.threads(200):
        kernels.matmul(a, a, out)
        if kernels._compiled is not None:
            assert kernels._compiled.set_threads(2) == kernels.MOST_THREADS
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


def blas_threads():
    info = threadpoolctl.threadpool_info()
    return {one["num_threads"] for one in info if one["user_api"] == "blas"}


@compiled
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
    before = kernels._compiled.threads(), blas_threads()
    thread = threading.Thread(target=other)
    with kernels.threads(2):
        thread.start()
        assert entered.wait(60)
        assert kernels._compiled.threads() == 2
    left.set()
    thread.join()
    assert found == [1, 3, 3, 1]
    assert (kernels._compiled.threads(), blas_threads()) == before


@pytest.mark.skipif(kernels._blas is None, reason="NumPy has another BLAS than its wheels")
def test_users_of_numpys_blas_may_leave_in_any_order():
    before = kernels._blas._get()
    first, second = kernels.threads(2), kernels.threads(3)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert kernels._blas._get() == 1
    second.__exit__(None, None, None)
    assert kernels._blas._get() == before
    kernels._compiled.set_threads(1)


@compiled
def test_the_threads_of_shards_inherit_the_number():
    found = [0, 0]

    def task(worker):
        found[worker] = kernels._compiled.threads()

    crew = Crew(2)
    with kernels.threads(3):
        crew.run(task)
    crew.close()
    assert found == [3, 3]


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


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_starts_threads_of_its_own():
    code = """
import os
import numpy as np
from minidl import kernels

a = np.random.default_rng(0).standard_normal((300, 300), np.float32)
out, alone, again = np.empty((3, 300, 300), np.float32)
with kernels.threads(2):
    kernels.matmul(a, a, out)
    child = os.fork()
    if child == 0:
        kernels.matmul(a, a, alone)
        with kernels.threads(2):
            kernels.matmul(a, a, again)
        os._exit(0 if (out == alone).all() and (out == again).all() else 1)
    _, status = os.waitpid(child, 0)
    kernels.matmul(a, a, again)
raise SystemExit(status or not (out == again).all())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False)
    assert done.returncode == 0


def test_the_kernels_can_be_turned_off():
    code = "from minidl import kernels; print(kernels.name())"
    environment = {**os.environ, "MINIDL_KERNELS": "numpy"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "numpy"
