"""Layers around which the input is carried past."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.errors import ParameterError, require, require_instance
from minidl.kernels import Array
from minidl.layers.activations import ACTIVATIONS
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


class ParametricMix(Layer):
    """A mix of each feature with its activation, in a proportion that is learned.

    y  = (1 - a) * x + a * f(x)
    dx = (1 - a) * dy + (a * dy) * f'(x)
    da = (dy * (f(x) - x)).sum(axis=0)

    x, y: (n_samples, n_features).  a: (n_features,), 1 at the start; a scale, it does not decay.
    activation: the name of f in `ACTIVATIONS`.  Saves f(x) - x.
    Holzmüller, Grinsztajn and Steinwart, Better by Default (RealMLP), 2024.
    """

    param_names = ("a",)

    def __init__(
        self, n_features: int, activation: str = "relu", *, dtype: Any = np.float32
    ) -> None:
        require("n_features", n_features, n_features >= 1, "at least 1")
        known = f"one of {', '.join(ACTIVATIONS)}"
        require("activation", activation, activation in ACTIVATIONS, known)
        self.n_features, self.activation = n_features, activation
        self.layers = (ACTIVATIONS[activation](),)
        self.a: Array = np.ones(n_features, dtype)
        self.da = np.zeros_like(self.a)

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return (1 - a) * x + a * f(x)."""
        change = self.layers[0].forward(x, train) - x
        if train:
            self.save(change)
        return np.asarray(x + self.a * change)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite da; return dx."""
        (change,) = self.saved()
        np.einsum("ij,ij->j", dy, change, out=self.da)
        through = self.layers[0].backward(self.a * dy, need_dx)
        return None if through is None else np.asarray((1 - self.a) * dy + through)
