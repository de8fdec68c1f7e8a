"""What is trained: nets from tiny to large, each with its batch size, on random data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidl.kernels import Array

MOMENTUM = 0.9
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Cell:
    """One net, from inputs to classes, with ReLU between its layers.

    n_batches: the steps of one timed pass over the data; enough of them that the pass takes some
    tens of milliseconds.
    """

    name: str
    sizes: tuple[int, ...]
    batch_size: int
    n_batches: int

    def samples(self) -> tuple[Array, Array]:
        """Return X, (n_samples, n_in) float32, and labels, (n_samples,) int64."""
        rng = np.random.default_rng(0)
        n_samples = self.n_batches * self.batch_size
        X = rng.standard_normal((n_samples, self.sizes[0]), dtype=np.float32)
        return X, rng.integers(0, self.sizes[-1], n_samples)

    def weights(self) -> list[Array]:
        """Return W of each layer, (n_in, n_out) float32; normal, He et al. 2015."""
        rng = np.random.default_rng(1)
        return [
            rng.standard_normal((n_in, n_out), dtype=np.float32) * np.float32(np.sqrt(2 / n_in))
            for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False)
        ]


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
