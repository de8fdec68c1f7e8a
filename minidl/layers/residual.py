"""Layers around which the input is carried past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl.errors import ParameterError, require_instance
from minidl.kernels import Array
from minidl.layers.layer import Layer


class Residual(Layer):
    """A stack of layers that adds to its input.

    y  = x + f(x);   f(x) = the layers, one after the other
    dx = dy + (dy through the layers, backwards)

    x, y: (n_samples, n_features); the layers must end with the size they begin with.  The
    parameters are those of the layers.  He et al., Deep Residual Learning, 2016.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        if not layers:
            raise ParameterError("layers", "must not be empty")
        for i, layer in enumerate(layers):
            require_instance(f"layer {i}", layer, Layer)
        self.layers = tuple(layers)
        n_features = self.input_size()
        if n_features is not None:
            self.output_size(n_features)

    def output_size(self, n_in: int) -> int:
        """Return n_in; refuse layers that do not lead back to it."""
        n_out = n_in
        for layer in self.layers:
            n_out = layer.output_size(n_out)
        if n_out != n_in:
            raise ValueError(f"layers must lead back to {n_in} features, not to {n_out}")
        return n_in

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x + f(x)."""
        y = x
        for layer in self.layers:
            y = layer.forward(y, train)
        if train:
            self.save()
        return np.add(x, y)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite the gradients of the layers; return dy plus what comes back through them."""
        self.saved()
        through: Array | None = dy
        for layer in reversed(self.layers):
            assert through is not None
            through = layer.backward(through, need_dx or layer is not self.layers[0])
        return None if through is None else np.add(dy, through)
