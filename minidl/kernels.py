"""What a training step spends its time in: matrix products and passes over long arrays.

Each stands here in NumPy, the reference, and in C (`_kernels.c`), which runs it on several threads
and makes one pass over memory of what are several in NumPy. The C extension is optional: it is
built where a C compiler is at hand when minidl is installed, and `MINIDL_KERNELS=numpy` in the
environment turns it off. The results have the same bits either way, but for these, which may
differ from NumPy's in the last digits: a product is cut in parts on several threads, and adds to
its bias; softmax has an exponential of its own; NumPy sums a single column in pairs; a zero may
have the other sign. And where the square of a parameter overflows, only NumPy calls it not finite.

Why not NumPy and its BLAS threads: NumPy makes elementwise passes on one core; BLAS threads and
others fight for the cores; and a BLAS that waits for a thread which another process has pushed off
its core wastes whole time slices. Here one small crew does both, and the products are still those
of the BLAS that came with NumPy, called for a part of the matrix by each thread.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # then BLAS keeps the number of threads that it was started with
    ThreadpoolController = None

Array = NDArray[Any]

try:
    from minidl import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

MOST_THREADS = 32  # of the C extension; a task has no more parts
_VERSION = 3  # of the functions in C; an extension left over from another checkout is not used
_compiled: Any = None
if os.environ.get("MINIDL_KERNELS") != "numpy" and getattr(_kernels, "VERSION", 0) == _VERSION:
    _compiled = _kernels

_controller: Any = None  # threadpoolctl's, once it is needed


def name() -> str:
    """Return which kernels run: "compiled" or "numpy"."""
    return "numpy" if _compiled is None else "compiled"


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Use `n` threads for matrix products and long arrays; give the former number back at the end.

    With None nothing is changed. The bits of products and of the softmax loss depend on n, and
    those of nothing else. The C extension takes part with MOST_THREADS at most, also on machines of
    more cores. Each Python thread has its own n; only where NumPy's BLAS makes the products, what
    one thread asks for holds for all.
    """
    if n is None:
        yield
        return
    before = 1 if _compiled is None else _compiled.set_threads(min(n, MOST_THREADS))
    try:
        with _blas_threads(n):
            yield
    finally:
        if _compiled is not None:
            _compiled.set_threads(before)


def inherited(task: Callable[[int], None]) -> Callable[[int], None]:
    """Return `task` for another Python thread, where it is to use as many threads as in this."""
    if _compiled is None:
        return task
    n = _compiled.threads()

    def run(argument: int) -> None:
        _compiled.set_threads(n)
        task(argument)

    return run


def matmul(a: Array, b: Array, out: Array, mask: Array | None = None) -> Array:
    """out = a @ b, for two matrices; with a mask of the shape of out, 0 where mask <= 0."""
    if _compiled is None or not _compiled.matmul(a, b, out, None, mask, False):
        np.dot(a, b, out=out)  # calls BLAS also where one size is 1, which `matmul` does not
        if mask is not None:
            np.multiply(out, mask > 0, out=out)
    return out


def affine(x: Array, W: Array, b: Array | None, out: Array, rectify: bool = False) -> Array:
    """out = x @ W + b, with b, (n_out,), added to each row; with `rectify`, max(out, 0)."""
    if _compiled is None or not _compiled.matmul(x, W, out, b, None, rectify):
        np.dot(x, W, out=out)
        if b is not None:
            np.add(out, b, out=out)
        if rectify:
            np.maximum(out, 0, out=out)
    return out


def relu(x: Array, y: Array) -> None:
    """y = max(x, 0)."""
    if _compiled is None or not _compiled.relu(x, y):
        np.maximum(x, 0, out=y)


def relu_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx = dy where y > 0, else 0."""
    if _compiled is None or not _compiled.relu_backward(dy, y, dx):
        np.multiply(dy, y > 0, out=dx)


def sum_rows(x: Array, sums: Array) -> None:
    """sums = the sum of the rows of x.  x: (n_samples, n).  sums: (n,)."""
    if _compiled is None or not _compiled.sum_rows(x, sums):
        np.add.reduce(x, 0, out=sums)


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float, x_hat: Array, y: Array) -> Array:
    """x_hat = (x - mean) * r and y = gamma * x_hat + beta, over the rows; r = 1 / sqrt(var + eps).

    x, x_hat, y: (n_samples, n_features).  Returns mean, var and r: (3, n_features).
    """
    stats: Array = np.empty((3, len(gamma)), x.dtype)
    if _compiled is None or not _compiled.batch_norm(x, gamma, beta, x_hat, y, stats, eps):
        mean, var, r = stats
        np.add.reduce(x, 0, out=mean)
        mean /= len(x)
        np.subtract(x, mean, out=x_hat)
        np.multiply(x_hat, x_hat, out=y)
        np.add.reduce(y, 0, out=var)
        var /= len(x)
        np.divide(1, np.sqrt(var + eps), out=r)
        np.multiply(x_hat, r, out=x_hat)
        np.multiply(x_hat, gamma, out=y)
        np.add(y, beta, out=y)
    return stats


def batch_norm_backward(
    dy: Array, x_hat: Array, r: Array, gamma: Array, dx: Array, dgamma: Array, dbeta: Array
) -> None:
    """dgamma = sum(dy * x_hat), dbeta = sum(dy), dx as `BatchNorm` defines it; over the rows."""
    arrays = dy, x_hat, r, gamma, dx, dgamma, dbeta
    if _compiled is None or not _compiled.batch_norm_backward(*arrays):
        np.multiply(dy, x_hat, out=dx)
        np.add.reduce(dx, 0, out=dgamma)
        np.add.reduce(dy, 0, out=dbeta)
        np.multiply(x_hat, dgamma / len(dy), out=dx)
        np.subtract(dy, dx, out=dx)
        np.subtract(dx, dbeta / len(dy), out=dx)
        np.multiply(dx, gamma * r, out=dx)


def take_rows(X: Array, rows: Array, out: Array) -> Array:
    """out = X[rows].  X: (n_samples, n).  rows: (n_rows,) int64, each in [0, n_samples)."""
    if _compiled is None or not _compiled.take_rows(X, rows, out):
        # Not "raise": that mode gathers into a copy of `out` first.
        X.take(rows, axis=0, out=out, mode="clip")
    return out


def softmax_cross_entropy(
    logits: Array, labels: Array, smoothing: float, share: float
) -> tuple[float, Array] | None:
    """Return (sum of the losses, dlogits) as `SoftmaxCrossEntropy` defines them, or None.

    None where there is no compiled kernel for these arrays: the loss then does it in NumPy. The
    exponential is another one than NumPy's, and both are within two units of the last place.
    """
    if _compiled is None:
        return None
    dlogits = np.empty_like(logits)
    loss = _compiled.softmax(logits, labels, dlogits, smoothing, share)
    return None if loss is None else (loss, dlogits)


def sgd(
    p: Array,
    g: Array,
    v: Array,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    scale: float,
    nesterov: bool,
    scratch: Sequence[Array],
) -> bool:
    """One step of SGD on arrays of one dimension; return whether all of p is finite after.

    d = scale * g + weight_decay * p
    v = momentum * v + d
    p = p - learning_rate * v                       (nesterov: learning_rate * (d + momentum * v))

    scratch: two arrays of at least p.size, to work with.
    """
    if _compiled is not None:
        finite = _compiled.sgd(p, g, v, learning_rate, momentum, weight_decay, scale, nesterov)
        if finite is not None:
            return bool(finite)
    s, t = scratch[0][: p.size], scratch[1][: p.size]
    d = decayed(p, g, weight_decay, scale, s, t)
    np.multiply(v, momentum, out=v)
    np.add(v, d, out=v)
    if nesterov:
        np.multiply(v, momentum, out=s)
        np.add(s, d, out=s)
        np.multiply(s, learning_rate, out=s)
    else:
        np.multiply(v, learning_rate, out=s)
    np.subtract(p, s, out=p)
    return all_finite(p)


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    scale: float,
    shrink: float,
    scratch: Sequence[Array],
) -> bool:
    """One step of Adam on arrays of one dimension; return whether all of p is finite after.

    p = shrink * p
    d = scale * g + weight_decay * p
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d**2
    p = p - learning_rate * m / (sqrt(v) + eps)

    scratch: two arrays of at least p.size, to work with.
    """
    if _compiled is not None:
        settings = learning_rate, beta1, beta2, eps, weight_decay, scale, shrink
        finite = _compiled.adam(p, g, m, v, *settings, 1 - beta1, 1 - beta2)
        if finite is not None:
            return bool(finite)
    s, t = scratch[0][: p.size], scratch[1][: p.size]
    if shrink != 1.0:
        np.multiply(p, shrink, out=p)
    d = decayed(p, g, weight_decay, scale, s, t)
    np.multiply(m, beta1, out=m)
    np.multiply(d, 1 - beta1, out=s)
    np.add(m, s, out=m)
    np.multiply(v, beta2, out=v)
    np.multiply(d, d, out=s)
    np.multiply(s, 1 - beta2, out=s)
    np.add(v, s, out=v)
    np.sqrt(v, out=s)
    np.add(s, eps, out=s)
    np.divide(m, s, out=s)
    np.multiply(s, learning_rate, out=s)
    np.subtract(p, s, out=p)
    return all_finite(p)


def decayed(p: Array, g: Array, weight_decay: float, scale: float, s: Array, t: Array) -> Array:
    """Return scale * g + weight_decay * p: g itself, or t, with s to work with."""
    d = g
    if scale != 1.0:
        d = np.multiply(g, scale, out=t)
    if weight_decay:
        np.multiply(p, weight_decay, out=s)
        d = np.add(s, d, out=t)
    return d


def all_finite(p: Array) -> bool:
    """Return whether every number of p, 1-D, is finite; one whose square overflows is not."""
    return math.isfinite(p.dot(p))


class _NumPyBlas:
    """The BLAS library that came with NumPy, whose products the C extension calls.

    They run in the calling thread alone only where the library is set to one thread, and that
    holds for the whole process. threadpoolctl (3.8) leaves the number to the Python thread that
    first asked: when that one is done, it changes under the others. So here it is counted.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.products = library.scipy_cblas_sgemm64_, library.scipy_cblas_dgemm64_
        self._get = library.scipy_openblas_get_num_threads64_
        self._set = library.scipy_openblas_set_num_threads64_
        self._changing = threading.Lock()
        self._users, self._before = 0, 1

    @contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Hold the library at one thread until the last user has left."""
        with self._changing:
            if self._users == 0:
                self._before = self._get()
                self._set(1)
            self._users += 1
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if self._users == 0:
                    self._set(self._before)

    @classmethod
    def found(cls) -> _NumPyBlas | None:
        """Return it, or None where NumPy came from elsewhere."""
        package = Path(np.__file__).parent
        for folder in (package.parent / "numpy.libs", package / ".dylibs"):
            for path in folder.glob("libscipy_openblas64_*"):
                with suppress(OSError, AttributeError):
                    return cls(ctypes.CDLL(str(path)))
        return None


@contextmanager
def _blas_threads(n: int) -> Iterator[None]:
    """Hold the BLAS that makes the products at one thread, or all of them at `n`."""
    global _controller
    if _blas is not None:
        with _blas.on_one_thread():
            yield
        return
    if ThreadpoolController is None:
        yield
        return
    if _controller is None:
        _controller = ThreadpoolController()
    with _controller.limit(limits=n, user_api="blas"):
        yield


_blas = None if _compiled is None else _NumPyBlas.found()
if _blas is not None:
    _compiled.use_gemm(*(ctypes.cast(each, ctypes.c_void_p).value for each in _blas.products))
