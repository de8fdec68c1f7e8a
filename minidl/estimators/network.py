"""The model of an estimator and its training: weights, epochs or L-BFGS, and the curves of both.

The rules of stopping, of the adaptive learning rate and of the row order are scikit-learn's, so
that the same `random_state` gives the same model; the steps are those of `minidl.training`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from minidl.best import BestWeights
from minidl.data.batches import Rows
from minidl.estimators.building import hidden_sizes, make_layers, make_optimizer, schedule_of
from minidl.estimators.callbacks import FitCallbacks
from minidl.estimators.epochs import Curves, EpochLoop
from minidl.estimators.fitting import NOT_FINITE, RowOrder, batch_rows, hold_out, minimise
from minidl.estimators.parameters import Parameters
from minidl.estimators.stopping import StoppingRule
from minidl.estimators.weights import copy_into, weight_lists
from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.training import Training

ARCHITECTURE = ("activation", "dropout", "layers")  # what a fit that goes on cannot change
CURVES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")


class Network(Parameters):
    """Parameters with a model that is trained on rows whose targets are encoded."""

    hidden_layer_sizes: Any  # parameters of the subclasses, where they stand first
    activation: Any
    coefs_: list[Array]
    intercepts_: list[Array]
    history_: list[dict[str, float]]
    n_outputs_: int
    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    _model: Sequential
    _targets: Any
    _optimizer: Optimizer
    _random_state: np.random.RandomState
    _resume: dict[str, Any] | None  # for warm_start="exact": where the last fit ended

    def _train(self, rows: Rows, held_out: Rows | None, *, begins: bool, incremental: bool) -> None:
        """Train on the rows: on new weights where the fit begins, else on the current ones.

        held_out: measured after each epoch, or None.  incremental: train for one epoch.
        """
        exact = self.warm_start == "exact" and not (begins or incremental)
        if not exact or getattr(self, "_resume", None) is None:
            self._resume = None
            self._random_state = check_random_state(self.random_state)
        if begins:
            self._initialize(rows)
        else:
            self._adopt_weights(rows)
        self._check_first_layer(rows.X)
        if self._model.buffers.size and rows.X.shape[0] == 1:
            raise ValueError("batch normalization needs several rows, got n_samples=1")
        if self.solver == "lbfgs":
            self._fit_full_batch(self._training_rows(rows), held_out)
            return
        if not (incremental and hasattr(self, "_optimizer")):
            rate = self._optimizer.learning_rate if self._resume else None
            self._optimizer = make_optimizer(self._parameters(), self._model)
            if rate is not None and self.learning_rate != "constant":
                self._optimizer.learning_rate = rate
        self._fit_in_epochs(rows, held_out, incremental=incremental)

    def _training_rows(self, rows: Rows) -> Rows:
        """Return the rows with the weights that they have in training."""
        return rows

    def _initialize(self, rows: Rows) -> None:
        """Begin anew: weights, counters, curves."""
        self._model = Sequential(
            make_layers(
                self._parameters(),
                rows.X.shape[1],
                self.n_outputs_,
                random_state=self._random_state,
                dtype=rows.X.dtype,
            )
        )
        self._built_from = {name: getattr(self, name) for name in ARCHITECTURE}
        self._list_weights()
        self.n_iter_, self.t_ = 0, 0
        self.history_ = []
        for name in (*CURVES, "_no_improvement_count"):
            self.__dict__.pop(name, None)

    def _adopt_weights(self, rows: Rows) -> None:
        """Go on with the current weights, also where they were set by hand without any fit."""
        if not hasattr(self, "_model"):
            by_hand = {name: value for name, value in self.__dict__.items() if name.endswith("_")}
            self._initialize(rows)
            self.__dict__.update(by_hand)
        self._copy_in_weights()
        sizes = hidden_sizes(self.hidden_layer_sizes)
        if self.layers is None and [W.shape[1] for W in self.coefs_[:-1]] != sizes:
            raise ValueError(
                "hidden_layer_sizes must be those of the fit that is continued, "
                f"{[W.shape[1] for W in self.coefs_[:-1]]}, got {sizes}"
            )
        for name, before in getattr(self, "_built_from", {}).items():
            if getattr(self, name) != before:
                raise ValueError(
                    f"{name} must be that of the fit that is continued, {before!r}, "
                    f"got {getattr(self, name)!r}"
                )

    def _list_weights(self) -> None:
        self.__dict__.update(weight_lists(self._model))
        self.n_layers_ = len(self.coefs_) + 1

    def _copy_in_weights(self) -> None:
        """Copy into the model what a user put in place of its views in the lists."""
        copy_into(self._model, {"coefs_": self.coefs_, "intercepts_": self.intercepts_})
        self._list_weights()

    def _check_first_layer(self, X: Any) -> None:
        first = self._model.layers[0]
        if issparse(X) and not isinstance(first, Linear):
            raise ValueError(
                f"sparse X needs a linear layer first, but layers begins with "
                f"{type(first).__name__}: give X.toarray()"
            )

    @contextmanager
    def _restored_after_an_error(self) -> Iterator[None]:
        """Leave the estimator as it was where the block raises an error."""
        before = {k: list(v) if type(v) is list else v for k, v in self.__dict__.items()}
        model: Sequential | None = self.__dict__.get("_model")
        vectors = () if model is None else (model.params, model.buffers)
        values = [vector.copy() for vector in vectors]
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            self.__dict__.pop("_optimizer", None)  # its averages may hold what is not finite
            for vector, value in zip(vectors, values, strict=True):
                vector[:] = value
            raise

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_model" in state:  # the lists are views into it; copies of views are not
            state.pop("coefs_", None)
            state.pop("intercepts_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_model" in state:
            self._list_weights()

    def _fit_in_epochs(self, rows: Rows, held_out: Rows | None, *, incremental: bool) -> None:
        resume, parts = self._resume or {}, None
        train_metrics = held_out is not None
        if held_out is None and self.early_stopping:
            parts = resume.get("parts") or hold_out(
                rows.X.shape[0],
                self._targets.strata(rows.y),
                self.validation_fraction,
                self._random_state,
            )
            rows, held_out = rows.select(parts[0]), rows.select(parts[1])
        n_rows = rows.X.shape[0]
        order = RowOrder(n_rows, self._random_state if self.shuffle else None)
        done = resume["training"]["progress"]["epoch"] if resume else 0
        training = Training(
            self._model,
            self._targets.loss_function,
            self._optimizer,
            self._training_rows(rows),
            held_out,
            epochs=done + self.max_iter,
            batch_size=batch_rows(self.batch_size, n_rows),
            rng=np.random.default_rng(0),  # the order of the rows is drawn from random_state
            order=order,
            schedule=schedule_of(self.schedule),
            best=BestWeights(monitor=self._targets.score_name, ema=self.ema),
            train_metrics=train_metrics,
            join_single_row=self._model.buffers.size > 0,
            l2=self._l2,
        )
        if resume:
            order.go_on(resume["order"])
            training.restore(resume["training"])
        else:
            best = getattr(self, "best_validation_score_", None) if held_out else None
            known = best is not None and np.isfinite(best)
            training.begin_at(self._optimizer.n_steps, best if known else None)
        self._run_epochs(training, rows, 1 if incremental else self.max_iter)
        if self.warm_start == "exact" and not incremental:
            state = copy.deepcopy(training.state())
            self._resume = {"training": state, "order": order.order, "parts": parts}
        training.use_best()
        if not all(np.isfinite(v).all() for v in (self._model.params, self._model.buffers)):
            raise ValueError(NOT_FINITE)

    def _run_epochs(self, training: Training, rows: Rows, n_epochs: int) -> None:
        """Train by scikit-learn's rules, and keep the curves."""
        validates = training.validation is not None
        sgd = self.solver == "sgd"
        before = {name: getattr(self, name, None) for name in CURVES}
        scores = (before["validation_scores_"] or []) if validates else None
        curves = Curves(self.history_, before["loss_curve_"] or [], scores, self.t_)
        rule = StoppingRule(
            self.tol,
            self.n_iter_no_change,
            self.early_stopping,
            adaptive=sgd and self.learning_rate == "adaptive",
            scheduled=self.schedule is not None,
            n_without_improvement=getattr(self, "_no_improvement_count", 0),
        )
        if before["best_loss_"] is not None:
            rule.best_loss = before["best_loss_"]
        if before["best_validation_score_"] is not None:
            rule.best_score = before["best_validation_score_"]
        loop = EpochLoop(
            training,
            rule,
            curves,
            self._targets.score_name,
            self._targets.loss_scale(self.n_outputs_),
            self._rate_after if sgd and self.learning_rate == "invscaling" else None,
            bool(self.verbose),
            self.progress,
        )
        callbacks = FitCallbacks(self, n_epochs, rows.X, lambda: self._targets.decode(rows.y))
        ended = loop.run(n_epochs, callbacks, self._fitted_now)
        if not (ended or n_epochs < self.max_iter or self.schedule is not None):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                "the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )
        callbacks.fit_ends()
        self.history_, self.loss_curve_ = curves.history, curves.loss_curve
        self.n_iter_, self.t_, self.loss_ = curves.n_iter, curves.t, curves.loss
        self.best_loss_ = None if self.early_stopping else rule.best_loss
        self.validation_scores_ = scores if validates else before["validation_scores_"]
        self.best_validation_score_ = (
            rule.best_score if validates else before["best_validation_score_"]
        )
        self._no_improvement_count = rule.n_without_improvement

    def _rate_after(self, n_rows_seen: int) -> float:
        return float(self.learning_rate_init / (n_rows_seen + 1) ** self.power_t)

    def _fitted_now(self) -> dict[str, Any]:
        """Return the attributes of an estimator whose fit ended with this epoch."""
        model = copy.deepcopy(self._model)
        return {"_model": model, **weight_lists(model)}

    def _fit_full_batch(self, rows: Rows, held_out: Rows | None) -> None:
        loss_function = self._targets.loss_function
        total = loss_function.total_weight(rows.y, rows.sample_weight)
        scale = self._targets.loss_scale(self.n_outputs_)
        callbacks = FitCallbacks(self, 0, rows.X, lambda: self._targets.decode(rows.y))
        found = minimise(
            self._model,
            loss_function,
            rows,
            held_out,
            history=self.history_,
            loss_scale=scale,
            weight_decay=self._l2 / total if self.weight_decay is None else self.weight_decay,
            max_iterations=self.max_iter,
            max_evaluations=self.max_fun,
            tolerance=self.tol,
            verbose=bool(self.verbose),
            progress=self.progress,
        )
        self.n_iter_, self.loss_ = found.iterations, found.loss * scale
        callbacks.fit_ends()
