"""When training ends: scikit-learn's rules, as an object that is told of each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Decision = Literal["continue", "lower the rate", "stop"]

LOWEST_RATE = 1e-6  # an adaptive rate is not lowered further


@dataclass
class StoppingRule:
    """Training ends after more than `n_iter_no_change` epochs in a row without an improvement.

    An epoch improves if its training loss is below the lowest so far by at least `tol`, or with
    `early_stopping` if its validation score is above the highest so far by at least `tol`.

    adaptive: lower the learning rate in place of stopping, until it is at most 1e-6.
    scheduled: a schedule plans the rate over all epochs, so only `early_stopping` may cut it short.
    n_without_improvement: epochs without an improvement so far.
    """

    tol: float
    n_iter_no_change: float
    early_stopping: bool = False
    adaptive: bool = False
    scheduled: bool = False
    best_loss: float = np.inf
    best_score: float = -np.inf
    n_without_improvement: int = 0

    def after(self, loss: float, score: float | None, learning_rate: float) -> Decision:
        """Record one epoch and return what follows from it.

        loss: the training loss.  score: the validation score, higher is better, or None.
        learning_rate: the optimizer's, without the factor of a schedule.
        """
        if self.early_stopping:
            assert score is not None
            improved = not score < self.best_score + self.tol
        else:
            improved = not loss > self.best_loss - self.tol
            self.best_loss = min(self.best_loss, loss)
        if score is not None and score > self.best_score:
            self.best_score = score
        self.n_without_improvement = 0 if improved else self.n_without_improvement + 1
        planned = self.scheduled and not self.early_stopping
        if planned or self.n_without_improvement <= self.n_iter_no_change:
            return "continue"
        if not self.adaptive or learning_rate <= LOWEST_RATE:
            return "stop"
        self.n_without_improvement = 0
        return "lower the rate"
