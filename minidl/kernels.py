"""The work that a training step spends its time in, in C where that is built: `_kernels.c`, with
the passes over memory for float32 and float64 in `_passes.h`.

A function here either has its reference in NumPy beside the call to C, or it returns whether C
has done the work, and the NumPy code is where the formula is described: `optimizers.py`, `losses/`
and `layers/activations.py`. The C extension is optional: it is built where a C compiler is present
when minidl is installed, and the environment variable `MINIDL_KERNELS=numpy` turns it off.

C and NumPy give the same bits, with these exceptions. A product is split among threads and starts
from the bias. Softmax, sigmoid, tanh, SiLU and both cross-entropies have an exponential of their
own. NumPy adds a single column pairwise. A zero may have the other sign. A parameter whose square
overflows is not finite for NumPy only.

Why not NumPy and the threads of its BLAS: NumPy's elementwise passes use one core, and a BLAS that
waits for one of its threads on a busy core loses whole time slices. Here one small crew of threads
does both. Each thread calls NumPy's own BLAS for its part of a product.
"""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from minidl import blas

try:
    from minidl import _kernels  # type: ignore[attr-defined]
except ImportError:
    _kernels = None

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
Replay = Callable[[Array, Array], float | None]  # see `record`

MOST_THREADS = 32  # of the C extension; a task has no more parts
_VERSION = 11  # of the functions in C; an extension left over from another checkout is not used


class _Numpy:
    """Stands in for the C extension where that is not built or not used: nothing is for it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


NUMPY_ALONE = _Numpy()
_compiled: Any = NUMPY_ALONE
BLOCK = 65536  # elements; four such float32 arrays fit in a core's second-level cache
_PAGE = 4096  # bytes
_places = itertools.cycle(range(0, _PAGE, 11 * 64))  # multiples of a line of the cache
if (_asked := os.environ.get("MINIDL_KERNELS", "")) not in ("", "numpy"):
    warnings.warn(f"MINIDL_KERNELS={_asked} is ignored: its only value is numpy", stacklevel=2)
if _asked != "numpy" and getattr(_kernels, "VERSION", 0) == _VERSION:
    _compiled = _kernels
    if blas.NUMPY is not None:
        _compiled.use_blas(*blas.NUMPY.addresses, blas.NUMPY.narrow)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return np.zeros(shape, dtype), placed in memory so that passes over several arrays are fast.

    NumPy's large arrays begin 16 bytes into a page, each at the same place: a vector of 64 bytes
    lies in two lines of the cache, and equal elements of two arrays seem to be the same one to a
    processor that compares places within the page. That cost 3 % of a step of 5.8 million weights.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(n_bytes + 2 * _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE + next(_places)
    placed: Array = memory[start : start + n_bytes].view(dtype)
    return placed.reshape(shape)


def name() -> str:
    """Return which kernels run: "compiled" or "numpy", and where the C extension is stale, that."""
    if _compiled is not NUMPY_ALONE:
        return "compiled"
    is_old = _kernels is not None and _asked != "numpy"
    return (
        "numpy, since the C extension is of another version: install again" if is_old else "numpy"
    )


def has_crew() -> bool:
    """Return whether several threads of the C extension may run.

    Not so where NumPy's BLAS cannot be held at one thread: its threads would fight with the crew's.
    """
    return _compiled is not NUMPY_ALONE and blas.NUMPY is not None


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Use `n` threads for products and passes over long arrays, within the `with` block.

    None changes nothing. The bits of products and of the softmax loss depend on n; those of nothing
    else do. Each Python thread has its own n, at most MOST_THREADS. Without a crew, n is the number
    of threads of the BLAS, and the smallest n that a Python thread asks for holds for all.
    """
    if n is None:
        yield
        return
    if blas.NUMPY is None or not has_crew():
        with blas.limited_to(n, blas.NUMPY):
            yield
        return
    with blas.NUMPY.limited_to(1):
        before = _compiled.threads()
        try:
            _compiled.set_threads(min(n, MOST_THREADS))
            yield
        finally:
            _compiled.set_threads(before)


def hold_threads() -> None:
    """Give NumPy's BLAS its number of threads again, within `threads`, if it was changed."""
    if blas.NUMPY is not None:
        blas.NUMPY.hold()


def threads_are_set() -> bool:
    """Return whether this Python thread is within `threads`, and has a crew."""
    return has_crew() and _compiled.threads() > 0


def record(step: Callable[[], float], x: Array, y: Array) -> tuple[float, Replay | None]:
    """Run a training step; return its loss, and what repeats its kernels: (x, y) -> loss.

    step: only calls functions of this module, with arrays that stay, but for x and y. Nothing
    repeats it where one of them had no compiled kernel, or used no x or y. A replay returns
    None, and has done nothing, for a batch that is not like the recorded one.
    """
    _compiled.record()
    try:
        loss = step()
    finally:
        recording = _compiled.recorded(x, y)
    return loss, None if recording is None else partial(_compiled.replay, recording)


def matmul(a: Array, b: Array, out: Array, mask: Array | None = None) -> Array:
    """out = a @ b, for two matrices; with a mask of the shape of out, 0 where mask <= 0.

    The mask must not share memory with out; a and b may.
    """
    if not _compiled.matmul(a, b, out, None, mask, False):
        np.dot(a, b, out=out)  # calls BLAS also where one size is 1, which `matmul` does not
        if mask is not None:
            np.multiply(out, mask > 0, out=out)
    return out


def affine(x: Array, W: Array, b: Array | None, out: Array, rectify: bool = False) -> Array:
    """out = x @ W + b, with b, (n_out,), added to each row; with `rectify`, max(out, 0).

    b must not share memory with out; x and W may.
    """
    if not _compiled.matmul(x, W, out, b, None, rectify):
        np.dot(x, W, out=out)
        if b is not None:
            np.add(out, b, out=out)
        if rectify:
            np.maximum(out, 0, out=out)
    return out


def sparse_affine(x: Any, W: Array, b: Array | None, out: Array, rectify: bool = False) -> Array:
    """out = x @ W + b, for x in SciPy's CSR format; with `rectify`, max(out, 0)."""
    if not _fits(x, len(out), len(W)) or not _compiled.sparse(
        x.data, x.indices, x.indptr, W, out, b, rectify
    ):
        out[:] = x @ W
        if b is not None:
            out += b
        if rectify:
            np.maximum(out, 0, out=out)
    return out


def sparse_gradient(x: Any, dy: Array, dW: Array) -> None:
    """dW = x.T @ dy, for x in SciPy's CSR format."""
    if not _fits(x, len(dy), len(dW)) or not _compiled.sparse_gradient(
        x.data, x.indices, x.indptr, dy, dW
    ):
        dW[:] = x.T @ dy


def sums_of_rows(factors: Array, places: Array, rows: Array, b: Array | None) -> Array:
    """Return for each i the sum over k of factors[i, k] * rows[places[i, k]], plus b.

    factors, places: (n, n_added), places of int32.  rows: (n_rows, n_out).  b: (n_out,).
    """
    sums = zeros((len(factors), rows.shape[1]), rows.dtype)
    starts = np.arange(len(factors) + 1, dtype=np.int32) * np.int32(factors.shape[1])
    if not _compiled.sparse(factors.ravel(), places.ravel(), starts, rows, sums, b, False):
        np.einsum("ik,ikj->ij", factors, rows[places], out=sums)
        if b is not None:
            sums += b
    return sums


def _fits(x: Any, *shape: int) -> bool:
    return bool(x.format == "csr" and x.shape == shape)


def elementwise(name: str, *arrays: Array) -> bool:
    """Fill the last array from the others; return whether C has done it: see `SinglePass`."""
    return bool(getattr(_compiled, name)(*arrays))


def sum_rows(x: Array, sums: Array) -> None:
    """sums = the sum of the rows of x.  x: (n_samples, n).  sums: (n,)."""
    if not _compiled.sum_rows(x, sums):
        np.add.reduce(x, 0, out=sums)


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float, x_hat: Array, y: Array) -> Array:
    """x_hat = (x - mean) * r and y = gamma * x_hat + beta, over the rows; r = 1 / sqrt(var + eps).

    x, x_hat, y: (n_samples, n_features).  Returns mean, var and r: (3, n_features).
    """
    stats: Array = np.empty((3, len(gamma)), x.dtype)
    if not _compiled.batch_norm(x, gamma, beta, x_hat, y, stats, eps):
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
    if not _compiled.batch_norm_backward(*arrays):
        np.multiply(dy, x_hat, out=dx)
        np.add.reduce(dx, 0, out=dgamma)
        np.add.reduce(dy, 0, out=dbeta)
        np.multiply(x_hat, dgamma / len(dy), out=dx)
        np.subtract(dy, dx, out=dx)
        np.subtract(dx, dbeta / len(dy), out=dx)
        np.multiply(dx, gamma * r, out=dx)


def take_rows(X: Array, rows: Array, out: Array) -> Array:
    """out = X[rows].  X: (n_samples, n).  rows: (n_rows,) int64, each in [0, n_samples)."""
    if not _compiled.take_rows(X, rows, out):
        # Not "raise": that mode gathers into a copy of `out` first.
        X.take(rows, axis=0, out=out, mode="clip")
    return out


def softmax(logits: Array) -> Array:
    """Return exp(logits) / the sum of its row, (n_samples, n_classes)."""
    p = np.empty_like(logits)
    if not _compiled.probabilities(logits, p):
        np.subtract(logits, np.maximum.reduce(logits, 1, keepdims=True), out=p)
        np.exp(p, out=p)
        np.divide(p, np.add.reduce(p, 1, keepdims=True), out=p)
    return p


def all_finite(x: Array) -> bool:
    """Return whether no number of x is NaN or infinite."""
    finite: bool | None = _compiled.finite(x)
    return bool(np.isfinite(x).all()) if finite is None else finite


def softmax_cross_entropy(
    logits: Array, labels: Array, smoothing: float, share: float
) -> tuple[float, Array] | None:
    """Return (sum of the losses, dlogits) as `SoftmaxCrossEntropy` defines them, or None.

    None: there is no compiled kernel for these arrays.
    """
    dlogits = np.empty_like(logits)
    loss = _compiled.softmax(logits, labels, dlogits, share, smoothing)
    if loss is None and isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        # They are not of 64 bits, or without a sign.
        loss = _compiled.softmax(logits, labels.astype(np.int64), dlogits, share, smoothing)
    return None if loss is None else (loss, dlogits)


def sigmoid_cross_entropy(
    logits: Array, targets: Array, share: float
) -> tuple[float, Array] | None:
    """Return (sum of the losses, dlogits) as `SigmoidCrossEntropy` defines them, or None."""
    dlogits = np.empty_like(logits)
    loss = _compiled.sigmoid_loss(logits, targets, dlogits, share)
    return None if loss is None else (loss, dlogits)


def add_l2(g: Array, p: Array, strength: float) -> float:
    """g += strength * p, for 1-D arrays; return the sum of p**2."""
    squares: float | None = _compiled.add_l2(g, p, strength)
    if squares is None:
        squares = 0.0
        for start in range(0, p.size, BLOCK):
            part = slice(start, start + BLOCK)
            g[part] += strength * p[part]
            squares += float(p[part].dot(p[part]))
    return squares


def sgd(p: Array, g: Array, v: Array, *settings: float) -> bool | None:
    """Make one step of `SGD` on 1-D arrays; return whether all of p is finite after it, or None.

    settings: learning rate, momentum, weight decay, scale of the gradient, nesterov.
    None: there is no compiled kernel for these arrays.
    """
    done: bool | None = _compiled.sgd(p, g, v, *settings)
    return done


def adam(p: Array, g: Array, m: Array, v: Array, *settings: float) -> bool | None:
    """Make one step of `Adam` on 1-D arrays; return whether all of p is finite after it, or None.

    settings: learning rate with the bias correction, beta1, beta2, eps, weight decay, scale of the
    gradient, factor of the parameters, 1 - beta1, 1 - beta2.
    None: there is no compiled kernel for these arrays.
    """
    done: bool | None = _compiled.adam(p, g, m, v, *settings)
    return done
