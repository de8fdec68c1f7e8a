"""Preprocessings for tables: skewed numbers, dates, categories and missing values.

Each puts the numbers first, encoded in its own way, then a mark for each that had missing values,
then the categories.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.cells import date_parts
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.scaling import Preprocessing, exact, sure
from minidl.data.schema import Schema
from minidl.errors import DataError, require

MAX_BINS = 10_000
MAX_QUANTILES = 100_000
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

    @abstractmethod
    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the encodings of numbers, (n_samples, n_numbers) float64, without NaN.

        The marks of missing values stand behind the first.
        """

    def transform(self, X: Any, dtype: DTypeLike = np.float32) -> Any:
        """Return the inputs for X in a new array of `dtype`."""
        self._check_columns(X)
        if not isinstance(X, np.ndarray):
            raise ValueError(f"X must be dense for preprocessing {self.name}")
        return np.concatenate(self._parts(X), axis=1, dtype=dtype)

    def state(self) -> dict[str, Any]:
        """Return what `fit` found."""
        return dict(self._state)

    def _keep(self, state: dict[str, Any], n_features: int) -> None:
        """Take what `fit` found."""
        self._state, self.n_features = state, n_features
        self.n_out = sum(part.shape[1] for part in self._parts(np.zeros((0, n_features))))

    def _parts(self, X: np.ndarray) -> list[np.ndarray]:
        numbers, marks = self.filled(X)
        first, *more = self._encode(numbers)
        return [first, marks, *more, X[:, self.hot_columns] == self._hot_codes]

    def filled(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers without gaps, and the marks of those."""
        numbers = self._numbers(X)
        missing = np.isnan(numbers)
        marks = missing[:, self._state["marked"] > 0]
        return np.where(missing, self._state[self.medians], numbers), marks

    def _rows_to_fit(self, X: Any) -> np.ndarray:
        """Return rows, or a sample of those on the disk.  Raises DataError."""
        self._check_rows(X)
        X = X[X.sample_numbers()] if isinstance(X, DiskRows) else X
        if not isinstance(X, np.ndarray):
            raise DataError(f"preprocessing {self.name}: X is sparse, and must be dense")
        return X

    def _place(self, n_labels: Any, dates: Any, coded: Sequence[int] = ()) -> None:
        """Tell which columns hold what.

        n_labels: of each column, 0 for numbers and dates.  coded: categories that are not one-hot.
        """
        counts = np.array(n_labels, np.int64)
        self._dates = np.array(dates, np.int64)
        self._plain = np.setdiff1d(np.flatnonzero(counts == 0), self._dates)
        counts[list(coded)] = 0
        self.hot_columns = np.repeat(np.arange(len(counts)), counts)
        self._hot_codes = np.concatenate([np.zeros(0), *map(np.arange, counts.astype(float))])

    def _numbers(self, X: np.ndarray) -> np.ndarray:
        """Return the columns of numbers and the parts of dates, (n_samples, n_numbers) float64."""
        numbers = X[:, self._plain].astype(np.float64)
        if not len(self._dates):
            return numbers
        parts = date_parts(X[:, self._dates].astype(np.float64))
        return np.hstack([numbers, parts.reshape(len(X), 5 * len(self._dates))])


class Tabular(TableInputs):
    """Numeric columns, encoded by the subclass; marks of missing values; categories one-hot.

    y = [encoding of the numbers | 1 where missing | 1 at the category, else 0]

    X: as for `TableInputs`.  schema: what its columns are; None where all are numbers.
    Each date becomes five numbers, after the others: year, month, day of the week, hour, and days
    since 1970.
    A missing number is replaced by the column's median; a column has a mark where the training part
    lacked values in it. A missing or new category is all zeros.
    """

    def __init__(self, *, schema: Schema | None = None) -> None:
        super().__init__()
        self._given = schema

    @abstractmethod
    def _fit_numbers(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the encoding needs to know of X, (n_samples, n_numbers), without NaN."""

    @abstractmethod
    def _check(self, n_numbers: int, **found: np.ndarray) -> None:
        """Raise unless these arrays can be what `_fit_numbers` returned."""

    def fit(self, X: Any) -> Self:
        """Take medians, columns that lack values, and the encoding from X.  Raises DataError."""
        X = self._rows_to_fit(X)
        schema = self._given or Schema.plain(list(map(str, range(X.shape[1]))))
        if len(schema.names) != X.shape[1]:
            raise ValueError(f"schema must be of {X.shape[1]} columns, got {len(schema.names)}")
        n_labels = np.array(list(map(len, schema.labels)), np.int64)
        self._place(n_labels, schema.dates)
        numbers = self._numbers(X)
        if np.isinf(numbers).any():
            raise DataError(f"preprocessing {self.name}: X holds numbers that are infinite")
        missing = np.isnan(numbers)
        medians = np.zeros(numbers.shape[1])
        for j in np.flatnonzero(~missing.all(axis=0)):
            medians[j] = np.median(numbers[~missing[:, j], j])
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._fit_numbers(np.where(missing, medians, numbers))
        if not all(np.isfinite(array).all() for array in found.values()):
            raise DataError(f"preprocessing {self.name}: X holds numbers that are too large")
        state = {
            "categories": n_labels,
            "labels": [str(label) for each in schema.labels for label in each],
            "medians": medians,
            "marked": missing.any(axis=0).astype(np.int64),
            **({"dates": self._dates} if len(self._dates) else {}),
            **found,
        }
        self._keep(state, X.shape[1])
        return self

    @property
    def labels(self) -> list[list[str]]:
        """Labels of each column, in the order of their codes; [] for numbers and dates."""
        found, counts = self._state["labels"], self._state["categories"]
        return [found[end - n : end] for n, end in zip(counts, np.cumsum(counts), strict=True)]

    @property
    def dates(self) -> list[int]:  # type: ignore[override]
        """Which columns are dates."""
        return list(self._dates.tolist())

    def _adopt(self, arrays: dict[str, Any]) -> None:
        own = dict(arrays)
        counts, labels, medians, marked = map(
            own.pop, ("categories", "labels", "medians", "marked")
        )
        dates = own.pop("dates", np.zeros(0, np.int64))
        if isinstance(labels, np.ndarray):  # in files of earlier versions
            labels = labels.tolist()
        exact(counts, np.int64, len(counts))
        exact(dates, np.int64, len(dates))
        # Each count is checked alone, so that their sum cannot wrap.
        sure(type(labels) is list, ((counts >= 0) & (counts <= len(labels))).all())
        sure(len(labels) == counts.sum(), all(type(label) is str for label in labels))
        sure(np.isin(dates, np.flatnonzero(counts == 0)).all(), (np.diff(dates) > 0).all())
        n_numbers = int((counts == 0).sum()) + 4 * len(dates)
        exact(medians, np.float64, n_numbers)
        sure(np.isin(exact(marked, np.int64, n_numbers), (0, 1)).all())
        self._check(n_numbers, **own)
        self._place(counts, dates)
        self._keep({**arrays, "labels": labels}, len(counts))


class SmoothClip(Tabular):
    """The middle half of each column scaled to a width of 1, and outliers drawn in smoothly.

    z = (x - median) / (quantile(x, 0.75) - quantile(x, 0.25))
    y = z / sqrt(1 + (z / 3)**2)

    So |y| < 3. Where the quartiles are equal, half the range of x takes the place of their
    difference; a constant column becomes 0.
    Holzmüller, Grinsztajn and Steinwart, Better by Default (RealMLP), 2024.
    """

    name = "smooth_clip"

    def _fit_numbers(self, X: np.ndarray) -> dict[str, np.ndarray]:
        low, median, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
        width = np.where(high > low, high - low, (X.max(axis=0) - X.min(axis=0)) / 2)
        scale = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0)
        return {"center": median, "scale": scale}

    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        return [clipped(numbers, self._state["center"], self._state["scale"])]

    def _check(self, n_numbers: int, *, center: Any, scale: Any) -> None:  # type: ignore[override]
        exact(center, np.float64, n_numbers)
        exact(scale, np.float64, n_numbers)


class QuantileTransform(Tabular):
    """Each column made normal: its ranks in the training part as quantiles of N(0, 1).

    y = Phi^-1(F(x)), Phi^-1 interpolated linearly between knots at F = (k + 0.5) / n, k = 0..n-1

    F: the distribution function of the training part; n: n_quantiles, or its rows where they are
    fewer.  The ends are flat; where many rows are equal, y is the middle of their ranks' interval.
    """

    name = "quantile"

    def __init__(self, n_quantiles: int = 1000, *, schema: Schema | None = None) -> None:
        most = MAX_QUANTILES
        require("n_quantiles", n_quantiles, 2 <= n_quantiles <= most, f"in 2 to {most}")
        super().__init__(schema=schema)
        self.n_quantiles = n_quantiles

    def _fit_numbers(self, X: np.ndarray) -> dict[str, np.ndarray]:
        n = min(self.n_quantiles, len(X))
        return {"knots": np.quantile(X, (np.arange(n) + 0.5) / n, axis=0, method="hazen")}

    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        knots = self._state["knots"]
        n = len(knots)
        normal = np.array([NormalDist().inv_cdf((k + 0.5) / n) for k in range(n)])
        y = np.empty_like(numbers)
        for j, x in enumerate(numbers.T):
            # From the left and from the right: they differ where knots coincide.
            right = np.interp(x, knots[:, j], normal)
            left = -np.interp(-x, -knots[::-1, j], -normal[::-1])
            y[:, j] = (left + right) / 2
        return [y]

    def _check(self, n_numbers: int, *, knots: Any) -> None:  # type: ignore[override]
        exact(knots, np.float64, len(knots), n_numbers)
        sure(0 < len(knots) <= MAX_QUANTILES, (np.diff(knots, axis=0) >= 0).all())


class PiecewiseLinear(Tabular):
    """Each column as several: how far x is through each of its bins, between quantiles.

    y_t = min(max((x - b_t) / (b_t+1 - b_t), 0), 1)

    b: the quantiles of the training part at t / n_bins, t = 0..n_bins, equal ones taken once.
    A linear layer then has a slope for each bin.
    Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features, 2022, section 3.2.
    """

    name = "piecewise_linear"

    def __init__(self, n_bins: int = 16, *, schema: Schema | None = None) -> None:
        require("n_bins", n_bins, 1 <= n_bins <= MAX_BINS, f"in 1 to {MAX_BINS}")
        super().__init__(schema=schema)
        self.n_bins = n_bins

    def _fit_numbers(self, X: np.ndarray) -> dict[str, np.ndarray]:
        edges = []
        for j, x in enumerate(X.T):
            b = np.unique(np.quantile(x, np.linspace(0, 1, self.n_bins + 1)))
            if len(b) == 1:
                b = np.array([b[0], b[0] + max(1.0, abs(b[0]))])  # a constant becomes 0
            edges.append((j, b))
        return dict(zip(("column", "left", "width"), bins(edges), strict=True))

    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        return [through(numbers, *(self._state[name] for name in ("column", "left", "width")))]

    def _check(self, n_numbers: int, **found: np.ndarray) -> None:
        column = check_bins(n_numbers, **found)
        sure(np.array_equal(np.unique(column), np.arange(n_numbers)))


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


def check_bins(n_numbers: int, *, column: Any, left: Any, width: Any) -> np.ndarray:
    """Return the column of each bin; raise unless these can be what `bins` returned."""
    exact(left, np.float64, len(column))
    sure((exact(width, np.float64, len(column)) > 0).all())
    sure((exact(column, np.int64, len(column)) >= 0).all(), (column < n_numbers).all())
    return np.asarray(column)


def through(x: np.ndarray, column: Any, left: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return how far numbers are through each bin: 0 below it, 1 above it."""
    t = np.take(x, column, axis=1)  # in C order, which x[:, column] is not
    t -= left
    t /= width
    return np.asarray(np.clip(t, 0, 1, out=t))
