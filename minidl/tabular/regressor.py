"""The regressor of raw tables: numbers, and intervals around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, column_or_1d

from minidl import conformal
from minidl.data.batches import Rows
from minidl.estimators.parameters import documented
from minidl.kernels import Array
from minidl.losses.loss import columns as as_columns
from minidl.model import Sequential
from minidl.tabular.members import pack
from minidl.tabular.tabular import ATTRIBUTES, PARAMETERS, Tabular


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

    def _check_targets(self, y: Any) -> tuple[None, Any]:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return None, y

    def _labels_and_numbers(self, targets: Array) -> tuple[Array | None, Array]:
        return None, as_columns(targets, np.float64)

    def _calibrate(self, members: list[Sequential], outputs: Array, rows: Rows) -> None:
        self._model = pack(members)
        values = self._targets.loss_function.predict(outputs)
        self.oof_prediction_ = values[:, 0] if rows.y.ndim == 1 else values
        errors = np.abs(values - as_columns(rows.y, np.float64))
        known = ~np.isnan(errors[:, 0])
        self.conformal_scores_ = conformal.kept_scores(errors[known], values[known])
