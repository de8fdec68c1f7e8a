"""minidl, driven as `fit` drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import kernels
from minidl.benchmark.cells import LEARNING_RATE, MOMENTUM, Cell
from minidl.benchmark.serving import serve
from minidl.kernels import Array
from minidl.layers import Linear, ReLU
from minidl.layers.layer import Layer
from minidl.losses import SoftmaxCrossEntropy
from minidl.model import Sequential
from minidl.optimizers import SGD
from minidl.parallel import automatic_threads
from minidl.training import Training


class Minidl:
    """`Training`, with the threads that it would choose."""

    _training: Training | None = None

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Build the model and its training."""
        if self._training is not None:
            self._training.close()
        rng = np.random.default_rng(0)
        layers: list[Layer] = []
        for n_in, n_out in zip(cell.sizes, cell.sizes[1:], strict=False):
            layers += [Linear(n_in, n_out, rng=rng), ReLU()]
        self._model = Sequential(layers[:-1])
        shards, self._threads = automatic_threads(self._model, cell.batch_size)
        self._training = Training(
            self._model,
            SoftmaxCrossEntropy(),
            SGD(LEARNING_RATE, momentum=MOMENTUM),
            cell.samples(),
            epochs=10**9,
            batch_size=cell.batch_size,
            rng=rng,
            shards=shards,
        )
        return {"kernels": kernels.name(), "shards": shards, "threads": self._threads}

    def run(self, n_batches: int) -> None:
        """Make so many steps."""
        training = self._training
        assert training is not None
        with kernels.threads(self._threads), np.errstate(all="ignore"):
            for _ in range(n_batches):
                training.step()

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return a call of `forward`."""
        return lambda: self._model.forward(x, train=False)


if __name__ == "__main__":
    serve(Minidl())
