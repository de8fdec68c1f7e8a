"""What the preprocessings of tables share: dates, gaps and one-hot categories; clips and bins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.cells import date_parts
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.contract import Preprocessing
from minidl.errors import DataError

OUTLIER = 3.0  # widths of the middle half beyond which a number is drawn in


class TableInputs(Preprocessing):
    """Numbers, parts of dates and one-hot categories of encoded rows.

    X: (n_samples, n_features), numbers, codes of labels, and dates in seconds from 1970; NaN where
    a value is missing.
    """

    takes_missing: ClassVar[bool] = True
    medians: ClassVar[str] = "medians"  # their name in the state

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}
        self._place((), ())

    def _keep(self, state: dict[str, Any], n_features: int) -> None:
        """Take what `fit` found."""
        self._state, self.n_features = state, n_features
        no_row = np.zeros((0, n_features))
        self.n_out = sum(part.shape[1] for part in self._parts(no_row))

    @abstractmethod
    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the encodings of numbers, (n_samples, n_numbers) float64, without NaN.

        The marks of missing values stand behind the first.
        """

    def transform(
        self, X: Any, out: np.ndarray | None = None, dtype: DTypeLike = np.float32
    ) -> Any:
        """Return the inputs for X in `out`, or if that is None in a new array of `dtype`."""
        self._check_columns(X)
        if not isinstance(X, np.ndarray):
            raise ValueError(f"X must be dense for preprocessing {self.name}")
        if out is None:
            out = np.empty((len(X), self.n_out), dtype)
        return np.concatenate(self._parts(X), axis=1, out=out)

    def _parts(self, X: np.ndarray) -> list[np.ndarray]:
        numbers = self._numbers(X)
        missing = np.isnan(numbers)
        first, *more = self._encode(np.where(missing, self._state[self.medians], numbers))
        marks = missing[:, self._state["marked"] > 0]
        return [first, marks, *more, X[:, self._hot_columns] == self._hot_codes]

    def state(self) -> dict[str, Any]:
        """Return what `fit` found."""
        return dict(self._state)

    def _rows_to_fit(self, X: Any) -> np.ndarray:
        """Return rows, or a sample of those on the disk.  Raises DataError."""
        self._check_rows(X)
        X = X[X.sample_numbers()] if isinstance(X, DiskRows) else X
        if not isinstance(X, np.ndarray):
            raise DataError(f"preprocessing {self.name}: X is sparse, and must be dense")
        return X

    def _place(
        self, n_labels: Sequence[int] | np.ndarray, dates: Any, coded: Sequence[int] = ()
    ) -> None:
        """Tell which columns hold what.

        n_labels: of each column, 0 for numbers and dates.  coded: categories that are not one-hot.
        """
        counts = np.array(n_labels, np.int64)
        self._dates = np.array(dates, np.int64)
        self._plain = np.setdiff1d(np.flatnonzero(counts == 0), self._dates)
        counts[list(coded)] = 0
        self._hot_columns = np.repeat(np.arange(len(counts)), counts)
        self._hot_codes = np.concatenate(
            [np.zeros(0), *(np.arange(n, dtype=float) for n in counts)]
        )

    def _numbers(self, X: np.ndarray) -> np.ndarray:
        """Return the columns of numbers and the parts of dates, (n_samples, n_numbers) float64."""
        numbers = X[:, self._plain].astype(np.float64)
        if not len(self._dates):
            return numbers
        parts = date_parts(X[:, self._dates].astype(np.float64))
        return np.hstack([numbers, parts.reshape(len(X), 5 * len(self._dates))])


def clipped(x: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return z / sqrt(1 + (z / 3)**2) of z = (x - center) * scale."""
    z = (x - center) * scale
    return np.asarray(z / np.hypot(1, z / OUTLIER))


def bins(edges: Iterable[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return column, left end and width of each bin; edges: of a column, in rising order."""
    column, left, width = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
    for j, b in edges:
        column.append(np.full(len(b) - 1, j))
        left.append(b[:-1])
        width.append(np.diff(b))
    return np.concatenate(column), np.concatenate(left), np.concatenate(width)


def through(x: np.ndarray, column: Any, left: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return how far numbers are through each bin: 0 below it, 1 above it."""
    t = (x[:, column] - left) / width
    return np.asarray(np.clip(t, 0, 1, out=t))
