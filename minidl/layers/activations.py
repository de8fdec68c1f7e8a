"""Elementwise activation functions, each with its derivative."""

from __future__ import annotations

import numpy as np

from minidl.layers.layer import Array, Layer


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), to full precision in both tails."""
    y = np.negative(x)
    with np.errstate(over="ignore"):  # far below 0 the exponential is infinite and the result 0
        np.exp(y, out=y)
    y += 1
    return np.divide(1, y, out=y)


class ReLU(Layer):
    """Rectified linear unit, elementwise.

    y  = max(x, 0)
    dx = dy where y > 0, else 0

    x, y, dy, dx: (n_samples, n_features).  Saves y.
    Nair and Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010.
    """

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return max(x, 0)."""
        if not train:
            return np.maximum(x, 0)
        y = np.maximum(x, 0, out=self._empty("y", x.shape, x.dtype))
        self._saved = (y,)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy where y > 0, else 0."""
        (y,) = self._take_saved()
        if not need_dx:
            return None
        positive = np.greater(y, 0, out=self._empty("positive", y.shape, np.bool_))
        return np.multiply(dy, positive, out=self._empty("dx", dy.shape, dy.dtype))
