"""`coefs_` and `intercepts_`: lists of live views into the one vector of a model's parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.model import Sequential, walk


def weight_lists(model: Sequential) -> tuple[list[Array], list[Array]]:
    """Return the matrices and the biases of the model's linear layers, views in their order."""
    linear = [layer for layer in walk(model.layers) if isinstance(layer, Linear)]
    return [each.W for each in linear], [each.b for each in linear if "b" in each.param_names]


class LiveWeights:
    """The lists of an estimator: writing into their arrays changes the model at once.

    An array that is put into a list in place of a view is copied into the model before it is used.
    """

    coefs_: list[Array]
    intercepts_: list[Array]
    n_layers_: int
    _model: Sequential

    def _list_weights(self) -> None:
        self.coefs_, self.intercepts_ = weight_lists(self._model)
        self.n_layers_ = len(self.coefs_) + 1

    def _copy_in_weights(self) -> None:
        """Copy into the model what was put in place of its views in the lists."""
        for name, views in zip(("coefs_", "intercepts_"), weight_lists(self._model), strict=True):
            given = getattr(self, name)
            if all(array is view for array, view in zip(given, views, strict=False)):
                if len(given) == len(views):
                    continue
            shapes = [view.shape for view in views]
            if [np.shape(array) for array in given] != shapes:
                raise ValueError(f"{name} must be arrays of the shapes {shapes}")
            for array, view in zip(given, views, strict=True):
                view[:] = array
            setattr(self, name, views)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        if "_model" in state:  # the lists are views into it, and a copy of a view is none
            state.pop("coefs_", None)
            state.pop("intercepts_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if "_model" in state:
            self._list_weights()
