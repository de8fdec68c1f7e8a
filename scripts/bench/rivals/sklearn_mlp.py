"""scikit-learn's MLPClassifier with SGD and momentum: `partial_fit` is one epoch.

It starts from weights of its own. It has no schedule and no label smoothing. On MNIST it has no
weight decay, a sixth of the maximal learning rate of the others, the best of a few, and it may take
15 epochs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench.cells import Problem
from bench.child import main, numpy_blas


def prepare(problem: Problem) -> Any:
    """Make the estimator."""
    classes = np.arange(problem.weights[-1].shape[1])
    estimator = MLPClassifier(
        [len(W) for W in problem.weights[1:]],
        solver="sgd",
        alpha=0.0,
        batch_size=problem.batch_size,
        learning_rate_init=problem.learning_rate / (6 if problem.epochs else 1),
        momentum=problem.momentum,
        nesterovs_momentum=problem.nesterov,
        shuffle=True,
        random_state=0,
    )

    def run(rates: list[float]) -> None:  # on the first rows, in a new order
        rows = slice(0, len(rates) * problem.batch_size)
        estimator.partial_fit(problem.X[rows], problem.y[rows], classes=classes)

    settings = {"blas": numpy_blas(), "race_epochs": 15}
    return run, lambda x: estimator.predict_proba(x), settings


if __name__ == "__main__":
    main(prepare)
