"""The linear layer, forwards and backwards."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from minidl.layers.initializers import INITIALIZERS
from minidl.layers.layer import Array, Layer

Init = Literal[
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "zeros",
]


class Linear(Layer):
    """Weighted sums of all inputs.

    y  = x @ W + b
    dx = dy @ W.T
    dW = x.T @ dy
    db = dy.sum(axis=0)

    x, dx: (n_samples, n_in).  y, dy: (n_samples, n_out).  W: (n_in, n_out).  b: (n_out,).
    Saves x, which may be a SciPy CSR matrix when no dx is needed.
    """

    param_names: tuple[str, ...] = ("W", "b")

    # Where a batch is split in shards, dW is formed later, from the rows of all shards at once:
    # see parallel.py. backward then leaves dW alone and keeps (x, dy) here.
    postpones = False
    postponed: tuple[Array, Array] | None = None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        rng: np.random.Generator,
        init: Init = "he_normal",
        gain: float = 1.0,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        if n_in < 1:
            raise ValueError(f"n_in must be at least 1, got {n_in}")
        if n_out < 1:
            raise ValueError(f"n_out must be at least 1, got {n_out}")
        if init not in INITIALIZERS:
            raise ValueError(f"init must be one of {', '.join(INITIALIZERS)}, got {init!r}")
        if not np.isfinite(gain):
            raise ValueError(f"gain must be finite, got {gain}")
        self.n_in, self.n_out, self.bias = n_in, n_out, bias
        self.W: Array = (gain * INITIALIZERS[init](n_in, n_out, rng)).astype(dtype)
        self.dW = np.zeros_like(self.W)
        if bias:
            self.b = np.zeros(n_out, dtype)
            self.db = np.zeros_like(self.b)
        else:
            self.param_names = ("W",)

    def output_size(self, n_in: int) -> int:
        """Return n_out; refuse any other input than n_in features."""
        if n_in != self.n_in:
            raise ValueError(f"takes {self.n_in} features, but is given {n_in}")
        return self.n_out

    def multiply_adds(self, n_in: int) -> int:
        """Return n_in * n_out."""
        return self.n_in * self.n_out

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x @ W + b."""
        W = self.W
        if type(x) is np.ndarray:
            y = self._empty("y", (x.shape[0], self.n_out), W.dtype) if train else None
            y = np.matmul(x, W, out=y)
        else:
            y = x @ W
        if self.bias:
            y += self.b
        if train:
            self._saved = (x,)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite dW and db; return dy @ W.T."""
        (x,) = self._take_saved()
        if self.postpones:
            self.postponed = x, dy
        elif type(x) is np.ndarray:
            np.matmul(x.T, dy, out=self.dW)
        else:
            self.dW[:] = x.T @ dy
        if self.bias:
            np.add.reduce(dy, 0, out=self.db)
        if not need_dx:
            return None
        return np.matmul(dy, self.W.T, out=self._empty("dx", (dy.shape[0], self.n_in), dy.dtype))
