"""The passes over memory that a training step spends its time in, beside the matrix products.

Each stands here in NumPy, the reference, and in C (`_kernels.c`), where several NumPy passes are
one. The C extension is optional: it is built where a C compiler is at hand when minidl is
installed, and `MINIDL_KERNELS=numpy` in the environment turns it off. The results of both have the
same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_compiled: Any = None
if os.environ.get("MINIDL_KERNELS") != "numpy":
    try:
        from minidl import _kernels as _compiled
    except ImportError:
        pass


def name() -> str:
    """Return which kernels run: "compiled" or "numpy"."""
    return "numpy" if _compiled is None else "compiled"


def relu_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx = dy where y > 0, else 0; three arrays of one shape."""
    if _compiled is None or not _compiled.relu_backward(dy, y, dx):
        np.multiply(dy, y > 0, out=dx)


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
    """One step of SGD on float arrays of one dimension; return whether all of p is finite after.

    d = scale * g + weight_decay * p
    v = momentum * v + d
    p = p - learning_rate * v                       (nesterov: learning_rate * (d + momentum * v))

    scratch: two arrays of at least p.size, to work with.
    """
    if _compiled is not None:
        finite = _compiled.sgd(
            p, g, v, learning_rate, momentum, weight_decay, scale, nesterov
        )
        if finite is not None:
            return bool(finite)
    s, t = scratch[0][: p.size], scratch[1][: p.size]
    d = g
    if scale != 1.0:
        d = np.multiply(g, scale, out=t)
    if weight_decay:
        np.multiply(p, weight_decay, out=s)
        d = np.add(s, d, out=t)
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


def all_finite(p: Array) -> bool:
    """Return whether every number of p, 1-D, is finite; one whose square overflows is not."""
    return math.isfinite(p.dot(p))
