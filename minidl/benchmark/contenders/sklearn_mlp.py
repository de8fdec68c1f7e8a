"""scikit-learn's MLPClassifier with plain SGD and momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from minidl.benchmark.cells import LEARNING_RATE, MOMENTUM, Cell
from minidl.benchmark.serving import serve
from minidl.kernels import Array


class ScikitLearn:
    """`partial_fit`: one epoch a call, on the rows of as many batches as are asked for."""

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Make the estimator and its first, tiny step."""
        self._X, self._y = cell.samples()
        self._batch_size = cell.batch_size
        self._classes = np.arange(cell.sizes[-1])
        self._estimator = MLPClassifier(
            cell.sizes[1:-1],
            solver="sgd",
            alpha=0.0,
            batch_size=cell.batch_size,
            learning_rate_init=LEARNING_RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            shuffle=True,
            random_state=0,
        )
        self.run(1)
        return {}

    def run(self, n_batches: int) -> None:
        """Train on the first rows, in a new order."""
        rows = slice(0, n_batches * self._batch_size)
        self._estimator.partial_fit(self._X[rows], self._y[rows], classes=self._classes)

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return a call of `predict_proba`."""
        return lambda: self._estimator.predict_proba(x)


if __name__ == "__main__":
    serve(ScikitLearn())
