"""What every layer promises.

1. `param_names` is a class-level tuple; for each name `n` the attributes `n` and `"d" + n` exist
   with equal shape. A layer built alone owns them; `Sequential` adopts the layer and makes them
   views into its two flat vectors.
2. `forward(x, train=True) -> y`. With `train` it saves what `backward` needs, and no more;
   without, it saves nothing. It never modifies `x`.
3. `backward(dy, need_dx=True) -> dx | None` consumes what was saved, overwrites every `d...` in
   place, and never modifies `dy`. Called twice, or without a forward, it raises `RuntimeError`.
4. Arrays are 2-D, rows are samples; `d` always means "d loss / d this". dtype in = dtype of the
   parameters = dtype out. The first layer of a model may be given a SciPy CSR matrix.
5. Constructors take sizes positionally and randomness as a required keyword (`rng`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.kernels import Array
from minidl.reprs import call_of

Scratch = dict[tuple[str, tuple[int, ...]], Array]  # a layer's results, by their name and shape
_OWN = {"_saved", "_scratch", "_owner"}  # what a copy of a layer begins without


class Layer:
    """One differentiable map y = f(x) with its own backward pass; the base of all layers.

    A new layer sets `param_names` (and `buffer_names` for running statistics, which are saved but
    not learned), and writes `forward` and `backward`. Parameters with two dimensions count as
    weights and decay; of the others, `b` and `beta` are biases and the rest scales.
    """

    param_names: tuple[str, ...] = ()
    buffer_names: tuple[str, ...] = ()
    mixes_rows: ClassVar[bool] = False  # whether a row of y depends on other rows of x

    layers: tuple[Layer, ...] = ()  # the layers inside, for a layer that is built of others
    _saved: tuple[Any, ...] | None = None
    _scratch: Scratch | None = None
    _owner: Callable[[], object] | None = None  # a weak reference to the model that adopted it

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return y = f(x); with `train`, save what backward needs."""
        raise NotImplementedError

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite the gradients of the parameters; return dx, or None where it is not needed."""
        raise NotImplementedError

    def input_size(self) -> int | None:
        """Return the number of features that the layer is made for, or None if any will do."""
        for name in ("n_in", "n_features"):
            if hasattr(self, name):
                return int(getattr(self, name))
        return next((n for layer in self.layers if (n := layer.input_size()) is not None), None)

    def output_size(self, n_in: int) -> int:
        """Return the number of output features for `n_in` input features, or raise ValueError."""
        expected = self.input_size()
        if expected is not None and n_in != expected:
            raise ValueError(f"takes {expected} features, but is given {n_in}")
        return n_in

    def multiply_adds(self, n_in: int) -> int:
        """Return the multiplications in matrix products that one sample costs in forward."""
        return sum(layer.multiply_adds(n_in) for layer in self.layers)

    def begin_step(self, step: int, first_row: int) -> None:
        """Position the noise of a layer that has any; see `Noise`."""
        for layer in self.layers:
            layer.begin_step(step, first_row)

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in _OWN}

    def save(self, *arrays: Any) -> None:
        """Keep what backward needs, until `saved` is called."""
        self._saved = arrays

    def saved(self) -> tuple[Any, ...]:
        """Return what `save` kept, once.  Raises RuntimeError where there is nothing."""
        saved = self._saved
        if saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a forward(x, train=True) before each call"
            )
        self._saved = None
        return saved

    def _empty(self, key: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array to write a result into.

        Fresh, unless a trainer lends scratch: then the same one in each step, which saves the page
        faults of large temporaries. Results of one step are then overwritten by the next.
        """
        if self._scratch is None:
            return np.empty(shape, dtype)
        found = self._scratch.get((key, shape))
        if found is None:
            found = self._scratch[key, shape] = kernels.zeros(shape, dtype)
        return found
