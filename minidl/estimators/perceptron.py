"""What the two estimators share: parameters, fitting over the one training loop, weights, files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from minidl.config import Config, load_config
from minidl.data.batches import Rows
from minidl.data.preprocessing import SmoothClip
from minidl.estimators.building import (
    ACTIVATION_NAMES,
    SOLVERS,
    chosen_layers,
    layer_choices,
    make_optimizer,
    perceptron_layers,
)
from minidl.estimators.callbacks import CallbackSupportMixin
from minidl.estimators.conversion import config_of, load_into, parameters_from, save
from minidl.estimators.fitting import fit_full_batch, fit_in_epochs
from minidl.estimators.presets import PRESETS, fit_with_preset, plain, table_inputs
from minidl.estimators.weights import LiveWeights
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.predictor import Predictor

Classes = Literal["new", "same", "known"]  # y sets the classes, has all of them, has some of them

ARCHITECTURE = ("activation", "dropout", "layers")  # what a fit that goes on cannot change
DTYPES = (np.float64, np.float32)  # of X, in which the model then computes


class Fitted:
    """What a fit leaves behind, apart from what the subclasses document."""

    hidden_layer_sizes: Any  # fields of the subclasses, where they stand first
    activation: Any
    history_: list[dict[str, float]]
    n_outputs_: int
    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: Any
    validation_scores_: Any
    best_validation_score_: Any
    _loss_function: Loss
    _optimizer: Optimizer
    _random_state: np.random.RandomState
    _no_improvement_count: int
    _resume: dict[str, Any] | None
    _built_from: dict[str, Any]  # the ARCHITECTURE of the model that there is
    _table: SmoothClip | None = None  # a preset's preprocessing of the raw rows

    _y_checks: ClassVar[Mapping[str, Any]] = {}
    _score_name: Any  # the metric by which epochs are compared
    _loss_scale: Any = 1.0  # from the loss function's loss to the one that is reported


@dataclass(eq=False, repr=False)
class Perceptron(CallbackSupportMixin, LiveWeights, BaseEstimator, Fitted, ABC):  # type: ignore[misc]
    """Base of the estimators; the parameters are documented there."""

    solver: str = field(default="adam", kw_only=True)
    alpha: float = field(default=0.0001, kw_only=True)
    batch_size: int | str = field(default="auto", kw_only=True)
    learning_rate: str = field(default="constant", kw_only=True)
    learning_rate_init: float = field(default=0.001, kw_only=True)
    power_t: float = field(default=0.5, kw_only=True)
    max_iter: int = field(default=200, kw_only=True)
    shuffle: bool = field(default=True, kw_only=True)
    random_state: int | np.random.RandomState | None = field(default=None, kw_only=True)
    tol: float = field(default=1e-4, kw_only=True)
    verbose: bool | int = field(default=False, kw_only=True)
    warm_start: bool | str = field(default=False, kw_only=True)
    momentum: float = field(default=0.9, kw_only=True)
    nesterovs_momentum: bool = field(default=True, kw_only=True)
    early_stopping: bool = field(default=False, kw_only=True)
    validation_fraction: float = field(default=0.1, kw_only=True)
    beta_1: float = field(default=0.9, kw_only=True)
    beta_2: float = field(default=0.999, kw_only=True)
    epsilon: float = field(default=1e-8, kw_only=True)
    n_iter_no_change: float = field(default=10, kw_only=True)
    max_fun: int = field(default=15000, kw_only=True)
    layers: Sequence[Any] | None = field(default=None, kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)
    weight_decay: float | None = field(default=None, kw_only=True)
    schedule: str | Mapping[str, Any] | None = field(default=None, kw_only=True)
    clip_grad_norm: float | None = field(default=None, kw_only=True)
    ema: float | None = field(default=None, kw_only=True)
    progress: bool = field(default=False, kw_only=True)
    preset: str | None = field(default=None, kw_only=True)

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(ACTIVATION_NAMES)],
        "solver": [StrOptions(SOLVERS)],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean", StrOptions({"exact"})],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "layers": [list, tuple, None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "schedule": [str, dict, None],
        "clip_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema": [Interval(Real, 0, 1, closed="neither"), None],
        "progress": ["boolean"],
        "preset": [StrOptions(set(PRESETS)), None],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the model to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Inputs. float32 is computed in float32, anything else in float64.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, an indicator matrix of labels, or numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; a weight of k is a row given k times.
        X_val, y_val, sample_weight_val : like X, y, sample_weight, default=None
            Validation data. It is measured after each epoch (with "lbfgs", each iteration), and
            stochastic solvers keep the best weights; with `early_stopping` it takes the place of
            the part that is split off.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For a parameter out of range, data that does not fit, or training that diverged.
        """
        if X_val is None and not (y_val is None and sample_weight_val is None):
            raise ValueError("y_val and sample_weight_val need X_val")
        validation = None if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, validation)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any] | None = None,
        *,
        incremental: bool = False,
    ) -> Self:
        if self.preset is not None:
            fit_with_preset(self, X, y, sample_weight, validation, incremental=incremental)
            return self
        self._table = None
        given = np.atleast_1d(self.hidden_layer_sizes).tolist()
        sizes = [int(n) for n in given]
        if any(n <= 0 for n in given):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {given}.")
        if sizes != given:
            raise ValueError(f"hidden_layer_sizes must be whole numbers, got {given}")
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        classes: Classes = "new" if first else "same" if self.warm_start else "known"
        rows = self._check_rows(X, y, sample_weight, reset=first, classes=classes)
        if first or not hasattr(self, "_loss_function"):
            self._loss_function = self._make_loss().fitted(rows.y)
        else:
            self._loss_function = self._make_loss().in_units_of(self._loss_function)
        if first:
            self.n_outputs_ = self._count_outputs(rows.y)
        held_out = None
        if validation is not None:
            held_out = self._check_rows(*validation, reset=False, classes="known")
        exact = self.warm_start == "exact" and not (first or incremental)
        if not exact or getattr(self, "_resume", None) is None:
            self._resume = None
            self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize(rows, sizes)
        else:
            self._adopt_weights(rows, sizes)
        if self._model.buffers.size and rows.X.shape[0] == 1:
            raise ValueError("batch normalization needs several rows, got n_samples=1")
        if self.solver == "lbfgs":
            fit_full_batch(self, self._training_rows(rows), held_out)
        else:
            if not (incremental and hasattr(self, "_optimizer")):
                self._optimizer = self._make_optimizer()
            fit_in_epochs(self, rows, held_out, incremental=incremental)
        return self

    def predict(self, X: Any) -> Array:
        """Return the predicted classes or values, (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        return self._decide(self._outputs(X))

    def _outputs(self, X: Any) -> Array:
        """Check X, and return the model's outputs for it."""
        check_is_fitted(self)
        self._copy_in_weights()
        if self._table is None:
            X = validate_data(self, X, accept_sparse="csr", reset=False)
            return predict_outputs(self._model, X)
        # In float64 a small spread around a large mean of the targets is not rounded away.
        return predict_outputs(self._model, table_inputs(self, X)).astype(np.float64)

    @classmethod
    def from_config(cls, config: Config | str | PathLike[str]) -> Self:
        """Return an unfitted estimator with the model, loss and training of a config.

        Parameters
        ----------
        config : path of a YAML file, or what `load_config` returns
            Its data section says nothing about the estimator: put its preprocessing in front, in
            a Pipeline. With early stopping, its validation share is split off from what `fit` is
            given, and the accuracy or R**2 there is watched, whatever `train.monitor` says. The
            dtype is that of the data.

        Raises
        ------
        ConfigError
            For a config that is wrong, or asks for what the estimators do not have.
        """
        loaded = config if isinstance(config, Config) else load_config(config)
        return cls(**parameters_from(loaded))

    def to_config(self, data: str | Mapping[str, Any] = "digits") -> Config:
        """Return the config that trains this model in this way on a named data set.

        Parameters
        ----------
        data : str or dict, default="digits"
            The data section: the name of a data set, or the section as in a file.

        Raises
        ------
        ConfigError
            For a parameter for which a config has no words, such as solver="lbfgs".
        """
        if self.preset is not None and isinstance(data, str):
            data = {"name": data, "preprocessing": SmoothClip.name}
        return config_of(plain(self), data)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to a model file, without pickle.

        `load` reads it here; `minidl.load` reads it where there is only NumPy.
        """
        check_is_fitted(self)
        self._copy_in_weights()
        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the fitted estimator that `save` wrote: it predicts, and can be trained further.

        An optimizer's averages are not in the file.

        Raises
        ------
        CheckpointError
            For a file that is damaged, or that `save` of this class did not write.
        """
        estimator: Self = load_into(cls, path)
        return estimator

    # --- What the subclasses say.

    @abstractmethod
    def _check_targets(self, y: Any, dtype: Any, classes: Classes) -> Array:
        """Return y as the loss function takes it; remember the classes, or hold it against them."""

    @abstractmethod
    def _as_given(self, targets: Array) -> Array:
        """Return y as it was given, from what `_check_targets` made of it."""

    @abstractmethod
    def _make_loss(self) -> Loss:
        """Return the loss for the targets that were checked."""

    @abstractmethod
    def _count_outputs(self, targets: Array) -> int:
        """Return how many outputs the model needs."""

    @abstractmethod
    def _decide(self, outputs: Array) -> Array:
        """Turn the model's outputs into predictions."""

    @abstractmethod
    def _loss_in_words(self) -> Any:
        """Return the loss in the notation of a config."""

    def _restore_targets(self, predictor: Predictor) -> None:
        """Take over what a file knows about the targets."""

    def _training_rows(self, rows: Rows) -> Rows:
        """The rows as they count in training."""
        return rows

    def _strata(self, targets: Array) -> Array | None:
        """What the split for early stopping keeps the shares of."""
        return None

    # --- Building.

    @property
    def _l2(self) -> float:
        """The L2 penalty of the loss; its pull is this, divided by the weight of the batch."""
        return self.alpha if self.weight_decay is None and self.solver != "adamw" else 0.0

    def _check_rows(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, classes: Classes
    ) -> Rows:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=DTYPES,
            reset=reset,
            **self._y_checks,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = self._check_targets(y, X.dtype, classes)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return Rows(X, targets, sample_weight)

    def _initialize(self, rows: Rows, sizes: Sequence[int]) -> None:
        """Start anew: weights, counters, curves."""
        self._build(rows.X.shape[1], sizes, rows.X.dtype)
        self.n_iter_, self.t_ = 0, 0
        self.history_ = []
        for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
            self.__dict__.pop(name, None)

    def _build(self, n_features: int, sizes: Sequence[int], dtype: Any) -> None:
        """Make the model and the lists of its weights."""
        state = self._random_state
        if self.layers is None:
            made = perceptron_layers(
                [n_features, *sizes, self.n_outputs_],
                self.activation,
                self.dropout,
                random_state=state,
                dtype=dtype,
            )
        elif self.dropout:
            raise ValueError("dropout is for hidden_layer_sizes; with layers, put it among them")
        else:
            choices = layer_choices(self.layers)
            made = chosen_layers(
                choices, n_features, self.n_outputs_, random_state=state, dtype=dtype
            )
        self._model = Sequential(made)
        self._built_from = {name: getattr(self, name) for name in ARCHITECTURE}
        self._list_weights()

    def _adopt_weights(self, rows: Rows, sizes: Sequence[int]) -> None:
        """Go on with the weights that there are, also where they were set without any fit."""
        if not hasattr(self, "_model"):
            known = {name: value for name, value in self.__dict__.items() if name.endswith("_")}
            self._initialize(rows, sizes)
            self.__dict__.update(known)
        self._copy_in_weights()
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

    def _make_optimizer(self) -> Optimizer:
        made = make_optimizer(
            self.solver,
            self._model,
            learning_rate=self.learning_rate_init,
            momentum=self.momentum,
            nesterov=self.nesterovs_momentum,
            betas=(self.beta_1, self.beta_2),
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            clip_grad_norm=self.clip_grad_norm,
        )
        if self._resume is not None and self.learning_rate != "constant":
            made.learning_rate = self._optimizer.learning_rate
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.preset is None
        if self.preset is not None:
            tags.input_tags.allow_nan = tags.input_tags.categorical = True
            tags.input_tags.string = True
        return tags
