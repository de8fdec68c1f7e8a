"""How the model of an estimator is trained: in epochs or by L-BFGS, and the curves of both.

The rules of stopping, of the adaptive learning rate and of the row order are scikit-learn's, so
that the same `random_state` gives the same model; the steps are those of `minidl.training`.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from minidl.bar import ProgressBar
from minidl.data.batches import Rows
from minidl.errors import DivergenceError
from minidl.estimators.callbacks import FitCallbacks
from minidl.estimators.notation import chosen, optimizer_options
from minidl.estimators.parameters import Parameters
from minidl.evaluation import loss_and_metrics, predict_outputs
from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.lbfgs import fit_lbfgs
from minidl.model import Sequential, walk
from minidl.optimizers import OPTIMIZERS, Optimizer
from minidl.progress import Epoch
from minidl.training import Training

LEFT_OUT = ("epoch", "step", "seconds", "improved")  # of an epoch's figures in the history
REPORTED_LOSSES = ("train_loss", "validation_loss")
CURVES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")


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


class Network(Parameters):
    """Parameters, and the training of `_model` on rows that `_targets` encoded."""

    class_weight: Any = None  # a parameter of the classifier
    history_: list[dict[str, float]]
    validation_scores_: Any
    _targets: Any
    _resume: Any  # where the last fit ended, with warm_start="exact"

    def _fit_in_epochs(self, rows: Rows, held_out: Rows | None, *, incremental: bool) -> None:
        resume: Mapping[str, Any] = self._resume or {}
        if not (incremental and hasattr(self, "_optimizer")):
            kind, clip = OPTIMIZERS[self.solver], self.clip_grad_norm
            self._optimizer = kind(clip_grad_norm=clip, **optimizer_options(self))
            if resume and self.learning_rate != "constant":
                self._optimizer.learning_rate = resume["learning_rate"]
        train_metrics, parts = held_out is not None, resume.get("parts")
        if held_out is None and self.early_stopping:
            one_logit = self._targets.activation == "logistic" and self.n_outputs_ == 1
            parts = parts or train_test_split(
                np.arange(rows.X.shape[0]),
                random_state=self._random_state,
                test_size=self.validation_fraction,
                stratify=rows.y[:, None] > 0.5 if one_logit else None,  # as in scikit-learn
            )
            if len(parts[1]) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size "
                    "of your dataset."
                )
            rows, held_out = rows.select(parts[0]), rows.select(parts[1])
        n_rows, batch_size = rows.X.shape[0], self.batch_size
        if not isinstance(batch_size, str) and batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. "
                "It is going to be clipped",
                stacklevel=2,
            )
        order: Array = resume.get("order", np.arange(n_rows))
        if order.size != n_rows:
            raise ValueError(
                f"warm_start='exact' goes on with the same data: before it had {order.size} rows, "
                f"now {n_rows}"
            )

        def next_order(epoch: int) -> Array:
            """Permute the order of the epoch before, as scikit-learn does."""
            nonlocal order
            order = self._random_state.permutation(order) if self.shuffle else order
            return order

        training = Training(
            self._model,
            self._targets.loss_function,
            self._optimizer,
            self._targets.weighted(rows, self.class_weight),
            held_out,
            epochs=self.max_iter + (resume["training"]["progress"]["epoch"] if resume else 0),
            batch_size=min(n_rows, 200 if isinstance(batch_size, str) else int(batch_size)),
            rng=0,  # the order of the rows is drawn from random_state
            order=next_order,
            schedule=None if self.schedule is None else chosen("schedule", self.schedule).build(),
            monitor=self._targets.score_name,
            ema=self.ema,
            train_metrics=train_metrics,
            join_single_row=self._model.buffers.size > 0,
            l2=self._l2,
        )
        if resume:
            training.restore(resume["training"])
        else:
            best = getattr(self, "best_validation_score_", None) if held_out else None
            known = best is not None and np.isfinite(best)
            training.begin_at(self._optimizer.n_steps, best if known else None)
        self._run_epochs(training, rows, 1 if incremental else self.max_iter)
        if self.warm_start == "exact" and not incremental:
            self._resume = {
                "training": copy.deepcopy(training.state()),
                "learning_rate": self._optimizer.learning_rate,
                "order": order,
                "parts": parts,
            }
        training.use_best()

    def _run_epochs(self, training: Training, rows: Rows, n_epochs: int) -> None:
        """Train by scikit-learn's rules, and keep the curves."""
        before = {name: getattr(self, name, None) for name in CURVES}
        loss, score = before["best_loss_"], before["best_validation_score_"]
        rule = StoppingRule(
            self.tol,
            self.n_iter_no_change,
            self.early_stopping,
            adaptive=self.solver == "sgd" and self.learning_rate == "adaptive",
            scheduled=self.schedule is not None,
            best_loss=np.inf if loss is None else loss,
            best_score=-np.inf if score is None else score,
            n_without_improvement=getattr(self, "_no_improvement_count", 0),
        )
        validates, scores = training.validation is not None, before["validation_scores_"]
        self.n_iter_, self.loss_, self.loss_curve_ = 0, np.nan, before["loss_curve_"] or []
        self.validation_scores_ = scores or [] if validates else scores
        ended = False
        callbacks = FitCallbacks(self, n_epochs, rows.X, lambda: self._targets.decode(rows.y))
        bar = ProgressBar(total=n_epochs, unit="epochs", leave=True, disable=not self.progress)
        try:
            callbacks.epoch_begins()
            for epoch in training.steps():
                if epoch is None:
                    continue
                ended = self._record(epoch, training, rule)
                bar.set_description_str(f"loss {self.loss_:.4g}", refresh=False)
                bar.update()
                ended = callbacks.epoch_ends(self._fitted_now) or ended
                if ended or self.n_iter_ == n_epochs:
                    break
                callbacks.epoch_begins()
        except KeyboardInterrupt:
            ended = True
            warnings.warn("Training interrupted by user.", stacklevel=2)
        except DivergenceError as error:
            if not validates or self.n_iter_ == 0:
                raise
            ended = True
            self.validation_scores_.append(float("nan"))
            warnings.warn(f"{error}; the best weights are kept", ConvergenceWarning, stacklevel=2)
        finally:
            bar.close()
        if not (ended or n_epochs < self.max_iter or self.schedule is not None):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                "the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )
        callbacks.fit_ends()
        self.best_loss_ = None if self.early_stopping else rule.best_loss
        self.best_validation_score_ = rule.best_score if validates else score
        self._no_improvement_count = rule.n_without_improvement

    def _record(self, epoch: Epoch, training: Training, rule: StoppingRule) -> bool:
        """Keep the figures of an epoch, and follow the rule; return whether training ends."""
        self.n_iter_ += 1
        self.t_ += training.train.X.shape[0]
        self.loss_ = self._keep({key: epoch[key] for key in epoch if key not in LEFT_OUT})
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        score, name = None, self._targets.score_name
        if epoch.validation:
            score = epoch.validation[name] * (-1 if name == "loss" else 1)
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")
        optimizer = training.optimizer
        decision = rule.after(self.loss_, score, optimizer.learning_rate)
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            _change_rate(optimizer, float(self.learning_rate_init / (self.t_ + 1) ** self.power_t))
        if decision == "lower the rate":
            _change_rate(optimizer, optimizer.learning_rate / 5)
        if decision != "continue" and self.verbose:
            rate = f"Setting learning rate to {optimizer.learning_rate:f}"
            print(
                f"{'Validation score' if rule.early_stopping else 'Training loss'} did not improve "
                f"more than tol={rule.tol:f} for {rule.n_iter_no_change} consecutive epochs. "
                f"{'Stopping.' if decision == 'stop' else rate}"
            )
        return decision == "stop"

    def _keep(self, figures: Mapping[str, float]) -> float:
        """Add the figures of an epoch, such as "train_loss", to the history; return that one."""
        scale: float = self._targets.loss_scale(self.n_outputs_)
        losses = {key: figures[key] * scale for key in figures if key in REPORTED_LOSSES}
        self.history_.append({"epoch": len(self.history_) + 1, **figures, **losses})
        return losses["train_loss"]

    def _fitted_now(self) -> dict[str, Any]:
        """Return the attributes of an estimator whose fit ended with this epoch."""
        model = copy.deepcopy(self._model)
        return {"_model": model, **weight_lists(model)}

    def _fit_full_batch(self, rows: Rows, held_out: Rows | None) -> None:
        callbacks = FitCallbacks(self, 0, rows.X, lambda: self._targets.decode(rows.y))
        loss_function, model, decay = self._targets.loss_function, self._model, self.weight_decay
        rows = self._targets.weighted(rows, self.class_weight)
        if decay is None:
            decay = self._l2 / loss_function.total_weight(rows.y, rows.sample_weight)

        def after_iteration(iteration: int, loss: float) -> None:
            figures = {"train_loss": loss}
            if held_out is not None:
                outputs, weight = predict_outputs(model, held_out.X), held_out.sample_weight
                measured = loss_and_metrics(loss_function, outputs, held_out.y, weight)
                figures |= {f"validation_{name}": value for name, value in measured.items()}
            scaled = self._keep(figures)
            if self.verbose:
                print(f"Iteration {iteration}, loss = {scaled:.8f}")
            bar.set_description_str(f"loss {scaled:.4g}", refresh=False)
            bar.update()

        bar = ProgressBar(
            total=self.max_iter, unit="iterations", leave=True, disable=not self.progress
        )
        with bar:
            found = fit_lbfgs(
                model,
                loss_function,
                rows,
                weight_decay=decay,
                max_iterations=self.max_iter,
                max_evaluations=self.max_fun,
                tolerance=self.tol,
                callback=after_iteration,
            )
        if not np.isfinite(found.fun):
            raise DivergenceError(f"the loss is {found.fun}")
        if not found.success:
            warnings.warn(
                f"lbfgs failed to converge after {found.nit} iteration(s) "
                f"(status={found.status}):\n{found.message}\n"
                f"Increase max_iter (now {self.max_iter}) or max_fun (now {self.max_fun}), "
                "or scale the data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.n_iter_ = int(found.nit)
        self.loss_ = float(found.fun) * self._targets.loss_scale(self.n_outputs_)
        callbacks.fit_ends()


def weight_lists(model: Sequential) -> dict[str, list[Array]]:
    """Return the matrices and the biases of the model's linear layers, as views, in their order."""
    linear = [layer for layer in walk(model.layers) if isinstance(layer, Linear)]
    return {
        "coefs_": [each.W for each in linear],
        "intercepts_": [each.b for each in linear if "b" in each.param_names],
    }


def _change_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the base learning rate of SGD; past steps keep the rate that they were made with."""
    for velocity in optimizer.averages.values():
        velocity *= optimizer.learning_rate / learning_rate
    optimizer.learning_rate = learning_rate
