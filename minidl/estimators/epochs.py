"""The epochs of one fit: trained one by one, recorded, and ended by a stopping rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from minidl.epoch import Epoch
from minidl.errors import DivergenceError
from minidl.estimators.callbacks import FitCallbacks
from minidl.estimators.fitting import NOT_FINITE, change_rate, figures_by_part
from minidl.estimators.stopping import StoppingRule
from minidl.terminal import ProgressBar
from minidl.training import Training


@dataclass
class Curves:
    """Figures of all epochs so far, which the estimators show with an underscore at the end.

    history: a map of figures an epoch.  validation_scores: higher is better; None without
    validation.  t: rows seen.  n_iter: epochs of the last fit.  loss: training loss of the last.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] | None = None
    t: int = 0
    n_iter: int = 0
    loss: float = np.nan


@dataclass
class EpochLoop:
    """Trains until the rule, a callback or the user says stop, or `n_epochs` are done.

    score_name: the metric that the rule is told where the training has validation rows.
    loss_scale: factor of all losses that are reported.
    rate_after: from rows seen so far to the base learning rate, or None where it stays.
    """

    training: Training
    rule: StoppingRule
    curves: Curves
    score_name: str
    loss_scale: float = 1.0
    rate_after: Callable[[int], float] | None = None
    verbose: bool = False
    progress: bool = False

    def run(self, n_epochs: int, callbacks: FitCallbacks, fitted: Callable[[], Any]) -> bool:
        """Train; return whether training ended before its last epoch.

        fitted: returns the attributes of an estimator that stopped at this epoch, for callbacks.
        Raises ValueError where training diverges and no epoch before it left weights to keep.
        """
        stop = False
        bar = ProgressBar(total=n_epochs, unit="epochs", leave=True, disable=not self.progress)
        try:
            callbacks.epoch_begins()
            for epoch in filter(None, self.training.steps()):
                stop = self._record(epoch)
                bar.set_description_str(f"loss {self.curves.loss:.4g}", refresh=False)
                bar.update()
                stop = callbacks.epoch_ends(fitted) or stop
                if stop or self.curves.n_iter == n_epochs:
                    break
                callbacks.epoch_begins()
        except KeyboardInterrupt:
            stop = True
            warnings.warn("Training interrupted by user.", stacklevel=2)
        except DivergenceError as error:
            if self.curves.validation_scores is None or self.curves.n_iter == 0:
                raise ValueError(NOT_FINITE) from error
            stop = True
            self.curves.validation_scores.append(float("nan"))
            warnings.warn(f"{error}; the best weights are kept", ConvergenceWarning, stacklevel=2)
        finally:
            bar.close()
        return stop

    def _record(self, epoch: Epoch) -> bool:
        """Take in the epoch; return whether training ends with it."""
        curves = self.curves
        curves.n_iter += 1
        curves.t += self.training.train.X.shape[0]
        figures = figures_by_part(self.loss_scale, train=epoch.train, validation=epoch.validation)
        numbered = {"epoch": len(curves.history) + 1, "learning_rate": epoch.learning_rate}
        curves.history.append(numbered | figures)
        curves.loss = figures["train_loss"]
        curves.loss_curve.append(curves.loss)
        self._print(f"Iteration {curves.n_iter}, loss = {curves.loss:.8f}")
        score = None
        if curves.validation_scores is not None:
            score = epoch.validation[self.score_name]
            score *= -1 if self.score_name in self.training.loss_function.lower_is_better else 1
            curves.validation_scores.append(score)
            self._print(f"Validation score: {score:f}")
        optimizer, rule = self.training.optimizer, self.rule
        decision = rule.after(curves.loss, score, optimizer.learning_rate)
        if self.rate_after is not None:
            change_rate(optimizer, self.rate_after(curves.t))
        if decision == "continue":
            return False
        what = "Validation score" if rule.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={rule.tol:f} for "
            f"{rule.n_iter_no_change} consecutive epochs."
        )
        if decision == "stop":
            self._print(f"{message} Stopping.")
            return True
        change_rate(optimizer, optimizer.learning_rate / 5)
        self._print(f"{message} Setting learning rate to {optimizer.learning_rate:f}")
        return False

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line)
