"""The regressor: one or several numbers a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.metaestimators import available_if

from minidl.estimators.building import head_of
from minidl.estimators.heads import HalfSquaredError, SummedPoisson
from minidl.estimators.perceptron import Classes, Perceptron, trains_in_epochs
from minidl.layers.layer import Array
from minidl.losses import Head

LOSSES: dict[str, type[Head]] = {"squared_error": HalfSquaredError, "poisson": SummedPoisson}


@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, Perceptron):  # type: ignore[misc]
    """Multilayer perceptron for regression."""

    loss: str | Mapping[str, Any] = "squared_error"
    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: str = "relu"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Perceptron._parameter_constraints,
        "loss": [str, dict],
    }
    _y_checks: ClassVar[Any] = {"y_numeric": True}

    @available_if(trains_in_epochs)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Update the model with one epoch over the given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _check_targets(self, y: Any, dtype: Any, classes: Classes) -> Array:
        targets: Array = np.asarray(y).astype(dtype, copy=False)
        return targets

    def _as_given(self, targets: Array) -> Array:
        return targets

    def _make_head(self) -> Head:
        own = isinstance(self.loss, str) and self.loss in LOSSES
        head = LOSSES[str(self.loss)]() if own else head_of(self.loss)
        if head.task != "regression":
            raise ValueError(f"loss must be one for regression, got {self.loss!r}")
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return head

    def _count_outputs(self, targets: Array) -> int:
        return self._head.n_outputs(targets)

    def _decide(self, outputs: Array) -> Array:
        values = self._head.predict(outputs)
        return values[:, 0] if values.shape[1] == 1 else values

    @property
    def _score_name(self) -> str:
        return "r2" if self.loss in ("squared_error", "poisson") else "loss"

    @property
    def _loss_scale(self) -> float:
        return 1 / self.n_outputs_ if self.loss == "squared_error" else 1.0
