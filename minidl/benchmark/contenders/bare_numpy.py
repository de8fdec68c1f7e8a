"""The floor for any NumPy code: a step's matrix products, and nothing else, into ready arrays.

The number of BLAS threads is set from outside, by OPENBLAS_NUM_THREADS and the like. Predictions
are the plain expression, with biases and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.benchmark.cells import Cell
from minidl.benchmark.serving import serve
from minidl.kernels import Array


class BareNumPy:
    """np.matmul, three times a layer, but twice for the first, whose dx nobody needs."""

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Lay out the factors and the results of all products."""
        n = cell.batch_size
        self._weights = cell.weights()
        self._biases = [np.zeros(W.shape[1], np.float32) for W in self._weights]
        self._inputs = [np.ones((n, W.shape[0]), np.float32) for W in self._weights]
        self._outputs = [np.ones((n, W.shape[1]), np.float32) for W in self._weights]
        self._dW = [np.empty_like(W) for W in self._weights]
        self._dx = [np.empty_like(x) for x in self._inputs]
        return {}

    def run(self, n_batches: int) -> None:
        """Compute the products of so many steps."""
        matmul = np.matmul
        steps = [
            *zip(self._inputs, self._weights, self._outputs, strict=True),  # y = x @ W
            *zip([x.T for x in self._inputs], self._outputs, self._dW, strict=True),  # x.T @ dy
            *zip(
                self._outputs[1:], [W.T for W in self._weights[1:]], self._dx[1:], strict=True
            ),  # dx = dy @ W.T
        ]
        for _ in range(n_batches):
            for a, b, out in steps:
                matmul(a, b, out=out)

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return the expression for two layers."""
        (W1, W2), (b1, b2) = self._weights, self._biases
        return lambda: np.maximum(x @ W1 + b1, 0) @ W2 + b2


if __name__ == "__main__":
    serve(BareNumPy())
