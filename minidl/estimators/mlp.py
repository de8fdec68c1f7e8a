"""What a user calls on both estimators, in reading order: fit, predict, save, load, checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from minidl.data.batches import Rows
from minidl.estimators.callbacks import CallbackSupportMixin
from minidl.estimators.conversion import notes_of, predictor_of, read_notes, usable
from minidl.estimators.labels import plain_targets
from minidl.estimators.network import CURVES, Network
from minidl.estimators.targets import Targets
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.predictor import Predictor

FITTED = ("n_iter_", "t_", "loss_", "history_", *CURVES)  # of what a file keeps
DTYPES = (np.float64, np.float32)  # of X, in which the model then computes


class MLP(CallbackSupportMixin, Network, ABC):  # type: ignore[misc]
    """Base of the estimators."""

    _y_checks: ClassVar[Mapping[str, Any]] = {}

    # --- Fit and predict.

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
            A fit that raises an error leaves the estimator as it was before.

        Raises
        ------
        ValueError
            For a parameter out of range, data that does not fit, or training that diverged.
        """
        if X_val is None and not (y_val is None and sample_weight_val is None):
            raise ValueError("y_val and sample_weight_val need X_val")
        validation = None if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, validation)

    def predict(self, X: Any) -> Any:
        """Return the predicted classes or values, (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        outputs = self._outputs(X)
        return self._targets.decide(outputs)

    def _outputs(self, X: Any) -> Array:
        """Check X, and return the model's outputs for it."""
        check_is_fitted(self)
        self._copy_in_weights()
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        self._check_first_layer(X)
        return predict_outputs(self._model, X)

    def predictor(self) -> Predictor:
        """Return the fitted model as `minidl.load` returns it: to predict, save or export."""
        check_is_fitted(self)
        self._copy_in_weights()
        return predictor_of(
            self._model,
            self._targets.loss_function,
            n_features=self.n_features_in_,
            classes=getattr(self, "classes_", None),
            feature_names=getattr(self, "feature_names_in_", None),
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to a model file, without pickle.

        `load` reads it here; `minidl.load` reads it where there is only NumPy.
        """
        predictor = self.predictor()
        fitted = {name: self.__dict__.get(name) for name in FITTED}
        fitted["indicator"] = self._targets.indicator
        predictor.save(path, notes_of(type(self).__name__, self.get_params(deep=False), fitted))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the fitted estimator that `save` wrote: it predicts, and can be trained further.

        An optimizer's averages are not in the file.

        Raises
        ------
        CheckpointError
            For a file that is damaged, or that `save` of this class did not write.
        """
        predictor, parameters, fitted = read_notes(path, cls.__name__)
        with usable(path):
            self = cls(**parameters)
            indicator = fitted.get("indicator")
            for name in FITTED:
                if fitted.get(name) is not None or name.startswith(("best", "validation")):
                    setattr(self, name, fitted.get(name))
            self._no_improvement_count = 0
            self._model = predictor.model
            self.n_features_in_ = predictor.n_features
            if predictor.feature_names is not None:
                self.feature_names_in_ = np.asarray(predictor.feature_names, dtype=object)
            row = np.zeros((1, predictor.n_features), predictor.model.dtype)
            self.n_outputs_ = predict_outputs(self._model, row).shape[1]
            targets = self._restored_targets(predictor, indicator)
            self._targets = targets.in_units_of(predictor.loss_function)
            self.out_activation_ = targets.activation
            self._list_weights()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- What the subclasses define.

    @abstractmethod
    def _make_targets(self, y: Any, *, begins: bool, incremental: bool) -> Targets:
        """Return the targets for y: learned from it where a fit begins, else checked against it."""

    @abstractmethod
    def _restored_targets(self, predictor: Predictor, indicator: bool | None) -> Targets:
        """Return the targets of a model from a file."""

    # --- Checks.

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            plain_targets(y),
            accept_sparse="csr",
            multi_output=True,
            dtype=DTYPES,
            reset=reset,
            **self._y_checks,
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _rows(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return Rows(X, self._targets.encode(y, X.dtype), sample_weight)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any] | None = None,
        *,
        incremental: bool = False,
    ) -> Self:
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        with self._restored_after_an_error():
            begins = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
            learns = begins or not hasattr(self, "_model")  # weights may have been set by hand
            X, y = self._check_rows(X, y, reset=learns)
            targets = self._make_targets(y, begins=begins, incremental=incremental)
            if learns:
                self._targets = targets.fitted(targets.encode(y, X.dtype))
            else:
                self._targets = targets.in_units_of(self._targets.loss_function)
            self.out_activation_ = targets.activation
            rows, held_out = self._rows(X, y, sample_weight), None
            if learns:
                self.n_outputs_ = self._targets.count_outputs(rows.y)
            if validation is not None:
                X_val, y_val = self._check_rows(*validation[:2], reset=False)
                held_out = self._rows(X_val, y_val, validation[2])
            self._train(rows, held_out, begins=begins, incremental=incremental)
        return self
