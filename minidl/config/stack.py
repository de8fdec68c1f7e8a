"""From the entries of a config's `model` list, or of an estimator's `layers`, to layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.config.choices import Choice
from minidl.layers.layer import Layer
from minidl.memory import check_memory


@dataclass(frozen=True)
class Stack:
    """Layers, the entries that they are made from with `auto` as a number, and their outputs."""

    layers: list[Layer]
    choices: tuple[Choice, ...]
    n_out: int


class StackError(ValueError):
    """What is wrong with one entry: its place, as in "2.residual.0", its name, and the error."""

    def __init__(self, place: str, name: str, cause: ValueError) -> None:
        super().__init__(f"{place} ({name}): {cause}")
        self.place, self.name, self.cause = place, name, cause


def build_stack(
    choices: Sequence[Choice],
    n_in: int,
    n_outputs: int,
    *,
    init: np.random.Generator,
    noise: np.random.Generator,
    dtype: np.dtype[Any],
    place: str = "",
) -> Stack:
    """Build the layers one after the other, each on the features that the one before it gives.

    n_in: features of the first one.  n_outputs: what `auto` stands for.  init, noise: draw the
    weights, and the keys of layers that draw in each step.  Raises StackError for a layer that
    cannot be, or that this machine cannot hold, before memory is taken for it.
    """
    layers: list[Layer] = []
    resolved: list[Choice] = []
    size = n_in
    for i, choice in enumerate(choices):
        here = f"{place}{i}"
        if choice.options.get("n_out") == "auto":
            choice = choice.model_copy(update={"n_out": n_outputs})
        noisy = choice.factory.begin_step is not Layer.begin_step  # type: ignore[attr-defined]
        supplied: dict[str, Any] = {
            "n_in": size,
            "n_features": size,
            "dtype": dtype,
            "rng": noise if noisy else init,
        }
        if choice.nested:
            inner = build_stack(
                choice.nested,
                size,
                n_outputs,
                init=init,
                noise=noise,
                dtype=dtype,
                place=f"{here}.{choice.name}.",
            )
            supplied["layers"] = inner.layers
            choice = choice.model_copy(update={"layers": inner.choices})
        try:
            check_memory(
                2 * n_parameters([choice], size, n_outputs)[0] * dtype.itemsize,
                f"weights and gradients from {size} features",
            )
            layer: Layer = choice.build(**supplied)
            size = layer.output_size(size)
        except ValueError as error:
            raise StackError(here, choice.name, error) from error
        layers.append(layer)
        resolved.append(choice)
    return Stack(layers, tuple(resolved), size)


def n_parameters(choices: Sequence[Choice], n_in: int, n_outputs: int) -> tuple[int, int]:
    """Return (parameters, numbers that a row becomes in all layers together), roughly."""
    parameters, numbers, size = 0, n_in, n_in
    for choice in choices:
        inner = n_parameters(choice.nested, size, n_outputs) if choice.nested else (0, 0)
        n_out = choice.options.get("n_out", size)
        n_out = n_outputs if n_out == "auto" else int(n_out)
        parameters += inner[0] + (size * n_out if "n_out" in choice.options else 2 * size)
        numbers += inner[1] + n_out
        size = n_out
    return parameters, numbers
