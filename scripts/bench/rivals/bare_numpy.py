"""The floor for any NumPy code: a step's matrix products into ready arrays, and nothing else.

OPENBLAS_NUM_THREADS and the like set the number of BLAS threads. Predictions are the plain
expression, with biases and ReLU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cells import Problem
from bench.child import main, numpy_blas


class BareNumPy:
    """np.matmul: three products a layer, but two for the first, which needs no dx."""

    race_epochs = 0

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Lay out the factors and the results of all products."""
        n = problem.batch_size
        self._weights = problem.weights
        self._inputs = [np.ones((n, W.shape[0]), np.float32) for W in self._weights]
        self._outputs = [np.ones((n, W.shape[1]), np.float32) for W in self._weights]
        self._dW = [np.empty_like(W) for W in self._weights]
        self._dx = [np.empty_like(x) for x in self._inputs]
        return {"blas": numpy_blas()}

    def run(self, n_batches: int) -> None:
        """Compute the products of so many steps."""
        matmul = np.matmul
        weights_after = [W.T for W in self._weights[1:]]
        steps = [
            *zip(self._inputs, self._weights, self._outputs, strict=True),  # y = x @ W
            *zip([x.T for x in self._inputs], self._outputs, self._dW, strict=True),  # x.T @ dy
            *zip(self._outputs[1:], weights_after, self._dx[1:], strict=True),  # dx = dy @ W.T
        ]
        for _ in range(n_batches):
            for a, b, out in steps:
                matmul(a, b, out=out)


if __name__ == "__main__":
    main(BareNumPy())
