"""What is trained: nets from tiny to large on random data, and one net on MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """The data, the first weights and the recipe of one training with SGD and momentum 0.9.

    X: (n_samples, n_in) float32; n_samples is a multiple of batch_size.  y: (n_samples,) int64.
    weights: W of each layer, (n_in, n_out) float32; biases start at 0.  With `epochs` the learning
    rate rises from 0 to `learning_rate` in the first fifth of the steps and then falls to 0;
    without, it is constant.
    """

    X: Any
    y: Any
    weights: tuple[Any, ...]
    batch_size: int
    learning_rate: float
    nesterov: bool = False
    epochs: int | None = None
    label_smoothing: float = 0.0
    weight_decay: float = 0.0  # in PyTorch and JAX of biases too

    momentum = 0.9

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches."""
        return len(self.X) // self.batch_size

    def rates(self, first_step: int, n_steps: int) -> list[float]:
        """Return the learning rates of consecutive steps."""
        if self.epochs is None:
            return [self.learning_rate] * n_steps
        t = np.arange(first_step, first_step + n_steps) + 0.5  # the middle of each step
        t /= self.epochs * self.steps_per_epoch
        return (self.learning_rate * np.interp(t, [0, 0.2, 1], [0, 1, 0])).tolist()


@dataclass(frozen=True)
class Cell:
    """One net on random data, from the inputs to the classes, with ReLU between its layers.

    n_batches: the steps of one timed pass over the data. They take some tens of milliseconds.
    """

    name: str
    sizes: tuple[int, ...]
    batch_size: int
    n_batches: int

    @property
    def title(self) -> str:
        """The row of the tables."""
        return f"{self.name} {'-'.join(map(str, self.sizes))}, {self.batch_size}"

    def problem(self) -> Problem:
        """Return data and weights, the same ones for every contender."""
        rng = np.random.default_rng(0)
        n_samples = self.n_batches * self.batch_size
        X = rng.standard_normal((n_samples, self.sizes[0]), dtype=np.float32)
        y = rng.integers(0, self.sizes[-1], n_samples)
        return Problem(X, y, he_normal(self.sizes), self.batch_size, learning_rate=1e-3)


def he_normal(sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Return normal weights with variance 2 / n_in (He et al., 2015)."""
    rng = np.random.default_rng(1)
    return tuple(
        rng.standard_normal(pair, dtype=np.float32) * np.float32(np.sqrt(2 / pair[0]))
        for pair in pairwise(sizes)
    )


GRID = {
    cell.name: cell
    for cell in (
        Cell("A", (64, 32, 10), 32, 1200),
        Cell("B", (64, 128, 64, 10), 64, 500),
        Cell("C", (784, 256, 10), 128, 100),
        Cell("D", (784, 512, 512, 10), 128, 40),
        Cell("E", (784, 2048, 2048, 10), 256, 5),
        Cell("F", (54, 512, 512, 7), 1024, 10),
        Cell("G", (784, 800, 10), 64, 80),
    )
}

GROWTH = (
    *(Cell(f"{n:,} rows", (20, 64, 2), 100, n // 100) for n in (1000, 10_000, 100_000, 1_000_000)),
    *(Cell(f"width {n}", (784, n, 10), 128, 16) for n in (64, 256, 1024, 4096)),
)
