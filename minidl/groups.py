"""The flat vector in groups, by what decays, is scaled or bounded, and in blocks to walk over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl.errors import require
from minidl.kernels import Array


@dataclass(frozen=True)
class ParameterGroup:
    """A contiguous part of the flat vector whose parameters are treated alike.

    learning_rate_multiplier: at least 0, which leaves the part as it is.
    max_norm: positive; bounds the columns of the matrices, (n_in, n_out), that the part consists
    of, whose `shapes` are given in order. Shapes and not views, so that a copy stays true.
    """

    name: str
    slice: slice
    decays: bool = True
    learning_rate_multiplier: float = 1.0
    max_norm: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        factor, bound = self.learning_rate_multiplier, self.max_norm
        require("learning_rate_multiplier", factor, 0 <= factor < np.inf, "at least 0")
        require("max_norm", bound, bound is None or 0 < bound < np.inf, "positive")

    def matrices(self, params: Array) -> list[Array]:
        """Return the views of the vector that max-norm bounds."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(params[self.slice], ends)
        return [p.reshape(-1, shape[-1]) for p, shape in zip(parts, self.shapes, strict=False)]


@dataclass(frozen=True)
class Block:
    """Views of one part of the vector, of its gradient and of each of the optimizer's averages."""

    params: Array
    grads: Array
    averages: tuple[Array, ...]
    weight_decay: float
    learning_rate_multiplier: float


def cut_into_blocks(
    groups: Sequence[ParameterGroup],
    size: int,
    weight_decay: float,
    params: Array,
    grads: Array,
    averages: Sequence[Array],
) -> list[Block]:
    """Return blocks of at most `size` elements; neighbours that are treated alike are joined."""
    runs: list[tuple[int, int, float, float]] = []
    for group in groups:
        decay = weight_decay if group.decays else 0.0
        run = (group.slice.start, group.slice.stop, decay, group.learning_rate_multiplier)
        if runs and runs[-1][1:] == (run[0], *run[2:]):
            run = (runs.pop()[0], *run[1:])
        runs.append(run)
    blocks = []
    for start, stop, decay, multiplier in runs:
        for first in range(start, stop, size):
            part = slice(first, min(first + size, stop))
            views = tuple(average[part] for average in averages)
            blocks.append(Block(params[part], grads[part], views, decay, multiplier))
    return blocks
