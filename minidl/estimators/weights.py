"""`coefs_` and `intercepts_`: lists of live views into the one vector of a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.model import Sequential, walk


def weight_lists(model: Sequential) -> dict[str, list[Array]]:
    """Return the matrices and the biases of the model's linear layers, as views, in their order."""
    linear = [layer for layer in walk(model.layers) if isinstance(layer, Linear)]
    return {
        "coefs_": [each.W for each in linear],
        "intercepts_": [each.b for each in linear if "b" in each.param_names],
    }


def copy_into(model: Sequential, given: dict[str, Sequence[Any]]) -> None:
    """Copy arrays that stand in the lists in place of the model's views into the model.

    given: lists by the names of `weight_lists`.  Raises ValueError for arrays of other shapes.
    """
    for name, views in weight_lists(model).items():
        shapes = [view.shape for view in views]
        if [np.shape(array) for array in given[name]] != shapes:
            raise ValueError(f"{name} must be arrays of the shapes {shapes}")
        for array, view in zip(given[name], views, strict=True):
            if array is not view:
                view[:] = array
