"""The floor for any NumPy code: a step's matrix products into ready arrays, and nothing else.

OPENBLAS_NUM_THREADS and the like set the number of BLAS threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cells import Problem
from bench.child import main, numpy_blas


def prepare(problem: Problem) -> Any:
    """Lay out the factors and results of three products a layer, two for the first: no dx."""
    n, weights = problem.batch_size, problem.weights
    inputs = [np.ones((n, W.shape[0]), np.float32) for W in weights]
    outputs = [np.ones((n, W.shape[1]), np.float32) for W in weights]
    steps = [
        *zip(inputs, weights, outputs, strict=True),  # y = x @ W
        *((x.T, dy, np.empty_like(W)) for x, dy, W in zip(inputs, outputs, weights, strict=True)),
        *(
            (dy, W.T, np.empty_like(x))  # dx = dy @ W.T
            for x, dy, W in zip(inputs[1:], outputs[1:], weights[1:], strict=True)
        ),
    ]

    def run(rates: list[float]) -> None:
        matmul = np.matmul
        for _ in rates:
            for a, b, out in steps:
                matmul(a, b, out=out)

    return run, None, {"blas": numpy_blas()}


if __name__ == "__main__":
    main(prepare)
