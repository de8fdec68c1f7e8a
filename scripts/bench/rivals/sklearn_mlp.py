"""scikit-learn's MLPClassifier with SGD and momentum."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench.cells import Problem
from bench.child import main, numpy_blas
from minidl.kernels import Array


class ScikitLearn:
    """`partial_fit`: one epoch a call, on the rows of as many batches as are asked for.

    It starts from weights of its own. It has no schedule: on MNIST the learning rate is half the
    maximum of the others, the best of a few, and it may take 15 epochs.
    """

    race_epochs = 15

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Make the estimator."""
        self._problem = problem
        self._classes = np.arange(problem.sizes[-1])
        self._estimator = MLPClassifier(
            problem.sizes[1:-1],
            solver="sgd",
            alpha=0.0,
            batch_size=problem.batch_size,
            learning_rate_init=problem.learning_rate / (2 if problem.epochs else 1),
            momentum=problem.momentum,
            nesterovs_momentum=problem.nesterov,
            shuffle=True,
            random_state=0,
        )
        return {"blas": numpy_blas()}

    def run(self, n_batches: int) -> None:
        """Train on the first rows, in a new order."""
        X, y = self._problem.X, self._problem.y
        rows = slice(0, n_batches * self._problem.batch_size)
        self._estimator.partial_fit(X[rows], y[rows], classes=self._classes)

    def outputs(self, x: Array) -> Any:
        """Return probabilities."""
        return self._estimator.predict_proba(x)


if __name__ == "__main__":
    main(ScikitLearn())
