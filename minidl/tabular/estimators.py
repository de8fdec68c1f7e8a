"""The two estimators of raw tables: calibrated probabilities, and numbers with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import assert_all_finite, check_array, column_or_1d

from minidl import conformal
from minidl.data.batches import Rows
from minidl.estimators.parameters import documented
from minidl.estimators.targets import Classes, Targets
from minidl.kernels import Array
from minidl.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.loss import columns as as_columns
from minidl.model import Sequential
from minidl.tabular.members import pack
from minidl.tabular.tabular import ATTRIBUTES, PARAMETERS, Tabular

LARGEST = np.log(20.0)  # logarithm of a temperature


@documented(PARAMETERS, ATTRIBUTES)
@dataclass(eq=False, repr=False)
class TabularClassifier(conformal.LabelSets, ClassifierMixin, Tabular):  # type: ignore[misc]
    """Classes of the rows of a raw table, without tuning.

    Parameters
    ----------
    class_weight : dict, 'balanced' or None, default=None
        Factor of the sample weights for each class.
    <shared>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of the columns of `predict_proba`.
    temperature_ : float
        What the mean outputs of the members are divided by.
    <shared>

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from minidl.tabular import TabularClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> clf = TabularClassifier(random_state=0).fit(X, y)
    >>> clf.predict(X[:2]).tolist()
    [0, 0]
    """

    class_weight: str | Mapping[Any, float] | None = None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Tabular._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def predict_proba(self, X: Any) -> Array:
        """Return the calibrated probability of each class, (n_samples, n_classes), for raw rows."""
        outputs = self._outputs(X)
        return self._targets.loss_function.predict(outputs)

    def _targets_of(self, y: Any) -> tuple[Targets, Any]:
        y = y if issparse(y) else np.asarray(y)
        if y.ndim != 2 or y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        return Classes.of(y), y

    def _calibrate(self, members: list[Sequential], outputs: Array, rows: Rows) -> None:
        known = ~np.isnan(outputs[:, 0])
        sure: Loss = SigmoidCrossEntropy() if rows.y.ndim == 2 else SoftmaxCrossEntropy()
        t = 1.0
        if known.any():
            held_out = rows.select(known)
            t = temperature(sure, outputs[known], held_out.y, held_out.sample_weight)
        self.temperature_ = t
        self._model = pack(members, 1 / t)
        self.oof_prediction_ = sure.predict(outputs / t)
        true = self.oof_prediction_[known]
        if rows.y.ndim == 1:
            true = np.take_along_axis(true, rows.y[known, None], axis=1)
        self.conformal_scores_ = conformal.kept_scores(1 - true)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def temperature(
    loss_function: Loss, outputs: Array, targets: Array, sample_weight: Array | None = None
) -> float:
    """Return the t for which outputs / t have the least loss, or 1 where none has less than that.

    outputs: for rows that the model has not seen, (n_samples, n_outputs).  The order of the
    classes stays as it is.
    Guo et al., On Calibration of Modern Neural Networks, 2017.
    """

    def loss(log_t: float) -> float:
        return loss_function(outputs / np.exp(log_t), targets, sample_weight)[0]

    found = minimize_scalar(loss, bounds=(-LARGEST, LARGEST), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


@documented(PARAMETERS, ATTRIBUTES)
@dataclass(eq=False, repr=False)
class TabularRegressor(conformal.Intervals, RegressorMixin, Tabular):  # type: ignore[misc]
    """Numbers for the rows of a raw table, without tuning.

    Parameters
    ----------
    <shared>

    Attributes
    ----------
    <shared>

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from minidl.tabular import TabularRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> reg = TabularRegressor(random_state=0).fit(X, y)
    >>> reg.predict_interval(X[:2], coverage=0.9).shape
    (2, 2)
    """

    def _targets_of(self, y: Any) -> tuple[Targets, Any]:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        return Targets(), column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _calibrate(self, members: list[Sequential], outputs: Array, rows: Rows) -> None:
        self._model = pack(members)
        values = self._targets.loss_function.predict(outputs)
        self.oof_prediction_ = values[:, 0] if rows.y.ndim == 1 else values
        errors = np.abs(values - as_columns(rows.y, np.float64))
        known = ~np.isnan(errors[:, 0])
        self.conformal_scores_ = conformal.kept_scores(errors[known], values[known])
