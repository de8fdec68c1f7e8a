"""How an estimator drives the one training loop: epochs counted, compared and stopped.

The rules of stopping, of the adaptive learning rate and of the row order are scikit-learn's, so
that the same `random_state` gives the same model; the steps themselves are `Training`'s.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from minidl import kernels
from minidl.data.batches import Rows
from minidl.errors import DivergenceError
from minidl.estimators.building import schedule_of
from minidl.estimators.callbacks import FitCallbacks
from minidl.estimators.weights import weight_lists
from minidl.evaluation import figures_of, predict_outputs
from minidl.kernels import Array
from minidl.lbfgs import fit_lbfgs
from minidl.parallel import automatic_threads
from minidl.training import LOWER_IS_BETTER, Epoch, Training

if TYPE_CHECKING:
    from minidl.estimators.perceptron import Perceptron

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


def fit_in_epochs(
    estimator: Perceptron, rows: Rows, held_out: Rows | None, *, incremental: bool
) -> None:
    """Train `estimator._model` by its stochastic solver: one epoch where incremental, else all."""
    parts, train_metrics = None, held_out is not None
    if held_out is None and estimator.early_stopping:
        parts = (estimator._resume or {}).get("parts") or hold_out(
            rows.X.shape[0],
            estimator._strata(rows.y),
            estimator.validation_fraction,
            estimator._random_state,
        )
        rows, held_out = rows.select(parts[0]), rows.select(parts[1])
    epochs = _Epochs(estimator, rows, held_out, incremental, train_metrics)
    epochs.run()
    if estimator.warm_start == "exact" and not incremental:
        estimator._resume = {"training": epochs.last, "order": epochs.order, "parts": parts}


class _Epochs:
    """One call of `fit` or `partial_fit` with a stochastic solver."""

    def __init__(
        self,
        estimator: Perceptron,
        rows: Rows,
        held_out: Rows | None,
        incremental: bool,
        train_metrics: bool,
    ) -> None:
        self.estimator, self.rows, self.incremental = estimator, rows, incremental
        self.n_rows = rows.X.shape[0]
        self.validates = held_out is not None
        self.batch_size = _batch_size(estimator.batch_size, self.n_rows)
        self.order = np.arange(self.n_rows)
        self.last: dict[str, Any] = {}
        if not hasattr(estimator, "loss_curve_"):
            estimator.loss_curve_, estimator._no_improvement_count = [], 0
            estimator.best_loss_ = estimator.validation_scores_ = None
            estimator.best_validation_score_ = None
        if self.validates and estimator.validation_scores_ is None:
            estimator.validation_scores_, estimator.best_validation_score_ = [], -np.inf
        if not estimator.early_stopping and estimator.best_loss_ is None:
            estimator.best_loss_ = np.inf
        model, resume = estimator._model, estimator._resume
        done = 0 if resume is None else resume["training"]["progress"]["epoch"]
        self.training = Training(
            model,
            estimator._loss_function,
            estimator._optimizer,
            estimator._training_rows(rows),
            held_out,
            epochs=done + estimator.max_iter,
            batch_size=self.batch_size,
            rng=np.random.default_rng(0),  # the order of the rows is drawn from random_state
            order=self._next_order,
            schedule=schedule_of(estimator.schedule),
            monitor=estimator._score_name,
            ema=estimator.ema,
            train_metrics=train_metrics,
            join_single_row=model.buffers.size > 0,
            l2=estimator._l2,
        )
        if resume is not None:
            if resume["order"].size != self.n_rows:
                raise ValueError(
                    "warm_start='exact' goes on with the same data: before it had "
                    f"{resume['order'].size} rows, now {self.n_rows}"
                )
            self.order = resume["order"].copy()
            self.training.restore(resume["training"])
        else:
            self._go_on()

    def run(self) -> None:
        """Train until an epoch says stop."""
        estimator, training = self.estimator, self.training
        model = estimator._model
        vectors = (model.params, model.buffers)
        first = [vector.copy() for vector in vectors] if self.validates else None
        n_epochs = 1 if self.incremental else estimator.max_iter
        callbacks = FitCallbacks(estimator, n_epochs, self.rows)
        estimator.n_iter_ = 0
        bar = tqdm(total=n_epochs, unit="epoch", disable=not estimator.progress)
        try:
            n_threads = automatic_threads(estimator._model, self.batch_size)[1]
            with kernels.threads(n_threads), np.errstate(all="ignore"):
                stop = False
                while not stop and estimator.n_iter_ < n_epochs:
                    callbacks.epoch_begins()
                    while (epoch := training.step()) is None:
                        pass
                    stop = self._end_epoch(epoch)
                    bar.update()
                    if estimator.progress:
                        bar.set_postfix(estimator.history_[-1], refresh=False)
                    stop = callbacks.epoch_ends(self._fitted) or stop
            if not (stop or self.incremental or estimator.schedule is not None):
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and "
                    "the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        except DivergenceError as error:
            for vector, before in zip(vectors, first or (), strict=first is not None):
                vector[:] = before  # unless an epoch was better, see below
            if first is None or estimator.n_iter_ == 0:  # no epoch, no model
                raise ValueError(NOT_FINITE) from error
            estimator.validation_scores_.append(float("nan"))
            warnings.warn(f"{error}; the best weights are kept", ConvergenceWarning, stacklevel=2)
        finally:
            bar.close()
            training.close()
        if estimator.warm_start == "exact" and not self.incremental:
            self.last = copy.deepcopy(training.state())
        training.use_best()
        callbacks.fit_ends()
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise ValueError(NOT_FINITE)

    def _end_epoch(self, epoch: Epoch) -> bool:
        """Record the epoch; return whether training ends with it."""
        estimator = self.estimator
        scale = estimator._loss_scale
        figures = {"epoch": len(estimator.history_) + 1, "learning_rate": epoch.learning_rate}
        for part, measured in (("train", epoch.train), ("validation", epoch.validation)):
            for name, value in measured.items():
                figures[f"{part}_{name}"] = value * scale if name == "loss" else value
        estimator.history_.append(figures)
        estimator.n_iter_ += 1
        estimator.t_ += self.n_rows
        estimator.loss_ = figures["train_loss"]
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        self._count_no_improvement(epoch)
        self._set_rate_by_time()
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        if estimator.schedule is not None and not estimator.early_stopping:
            return False  # a planned course of the rate is not cut short
        return self._give_up()

    def _count_no_improvement(self, epoch: Epoch) -> None:
        estimator = self.estimator
        better = True
        if self.validates:
            name = estimator._score_name
            score = epoch.validation[name] * (-1 if name in LOWER_IS_BETTER else 1)
            if estimator.verbose:
                print(f"Validation score: {score:f}")
            better = not score < estimator.best_validation_score_ + estimator.tol
            estimator.validation_scores_.append(score)
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_ = score
        if not estimator.early_stopping:
            better = not estimator.loss_ > estimator.best_loss_ - estimator.tol
            estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
        estimator._no_improvement_count = 0 if better else estimator._no_improvement_count + 1

    def _set_rate_by_time(self) -> None:
        estimator = self.estimator
        if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
            rate = estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t
            self._set_rate(rate)

    def _give_up(self) -> bool:
        """Too long without an improvement: lower an adaptive rate, or stop."""
        estimator = self.estimator
        what = "Validation score" if estimator.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        rate = estimator._optimizer.learning_rate
        if estimator.solver != "sgd" or estimator.learning_rate != "adaptive" or rate <= 1e-6:
            if estimator.verbose:
                print(f"{message} Stopping.")
            return True
        self._set_rate(rate / 5)
        if estimator.verbose:
            print(f"{message} Setting learning rate to {rate / 5:f}")
        estimator._no_improvement_count = 0
        return False

    def _set_rate(self, rate: float) -> None:
        """Change the base rate; past steps keep the rate that they were made with."""
        optimizer = self.estimator._optimizer
        for velocity in optimizer.averages.values():
            velocity *= optimizer.learning_rate / rate
        optimizer.learning_rate = rate

    def _next_order(self, epoch: int) -> Array:
        if self.estimator.shuffle:
            self.order = self.estimator._random_state.permutation(self.order)
        return self.order

    def _go_on(self) -> None:
        """Number the steps, and compare epochs, where earlier calls left off."""
        best = self.estimator.best_validation_score_ if self.validates else None
        known = best is not None and np.isfinite(best)
        self.training.begin_at(self.estimator._optimizer.n_steps, best if known else None)

    def _fitted(self) -> dict[str, Any]:
        """The attributes of an estimator whose fit ended with this epoch."""
        model = copy.deepcopy(self.estimator._model)
        coefs, intercepts = weight_lists(model)
        return {"_model": model, "coefs_": coefs, "intercepts_": intercepts}


def fit_full_batch(estimator: Perceptron, rows: Rows, held_out: Rows | None) -> None:
    """Train `estimator._model` by L-BFGS."""
    model, loss_function = estimator._model, estimator._loss_function
    total = loss_function.total_weight(rows.y, rows.sample_weight)
    decay = estimator._l2 / total if estimator.weight_decay is None else estimator.weight_decay
    callbacks = FitCallbacks(estimator, 0, rows)
    scale = estimator._loss_scale
    bar = tqdm(total=estimator.max_iter, unit="iteration", disable=not estimator.progress)

    def after_iteration(iteration: int, loss: float) -> None:
        figures = {"epoch": len(estimator.history_) + 1, "train_loss": loss * scale}
        if held_out is not None:
            outputs = predict_outputs(model, held_out.X)
            measured = figures_of(loss_function, outputs, held_out.y, held_out.sample_weight)
            measured["loss"] *= scale
            figures |= {f"validation_{name}": value for name, value in measured.items()}
        estimator.history_.append(figures)
        if estimator.verbose:
            print(f"Iteration {iteration}, loss = {loss * scale:.8f}")
        bar.update()

    try:
        found = fit_lbfgs(
            model,
            loss_function,
            rows,
            weight_decay=decay,
            max_iterations=estimator.max_iter,
            max_evaluations=estimator.max_fun,
            tolerance=estimator.tol,
            callback=after_iteration,
        )
    except DivergenceError as error:
        raise ValueError(NOT_FINITE) from error
    finally:
        bar.close()
    estimator.n_iter_, estimator.loss_ = found.iterations, found.loss * scale
    callbacks.fit_ends()
    if not np.isfinite(model.params).all():
        raise ValueError(NOT_FINITE)
    if not found.converged:
        warnings.warn(
            f"lbfgs failed to converge after {found.iterations} iteration(s) "
            f"(status={found.status}):\n{found.message}\n"
            f"Increase max_iter (now {estimator.max_iter}) or max_fun (now {estimator.max_fun}), "
            "or scale the data.",
            ConvergenceWarning,
            stacklevel=2,
        )


def _batch_size(batch_size: int | str, n_rows: int) -> int:
    if isinstance(batch_size, str):
        return min(200, n_rows)
    if batch_size > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=2,
        )
    return min(int(batch_size), n_rows)


def hold_out(
    n_samples: int, strata: Array | None, fraction: float, random_state: Any
) -> tuple[Array, Array]:
    """Return the numbers of the rows to train on, and of those to validate on."""
    train, held_out = train_test_split(
        np.arange(n_samples), random_state=random_state, test_size=fraction, stratify=strata
    )
    if held_out.size < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    return train, held_out


def trains_in_epochs(estimator: Perceptron) -> bool:
    """Whether there is a `partial_fit`; raises AttributeError where there is not."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    if estimator.ema is not None:
        raise AttributeError("partial_fit does not support ema: an average over one epoch is none.")
    return True
