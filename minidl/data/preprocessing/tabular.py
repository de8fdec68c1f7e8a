"""Preprocessings for tables: skewed numbers, dates, categories and missing values.

Each puts the numbers first, encoded in its own way, then a mark for each that had missing values,
then the categories.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.cells import date_parts
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.contract import Preprocessing
from minidl.errors import CheckpointError, DataError, require

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_BINS = 10_000
MAX_QUANTILES = 100_000


class Tabular(Preprocessing):
    """Numeric columns, encoded by the subclass; marks of missing values; categories one-hot.

    y = [encoding of the numbers | 1 where missing | 1 at the category, else 0]

    X: (n_samples, n_features), numbers, category codes, and dates in seconds from 1970; NaN where a
    value is missing.
    categories: for each column its labels, whose codes are 0, 1, ..., or () for a column of
    numbers; None where all are numbers.
    dates: which columns are dates. Each becomes five numbers, after the others: year, month, day of
    the week, hour, and days since 1970.
    A missing number is replaced by the column's median; a column has a mark where the training part
    lacked values in it. A missing or new category is all zeros.
    """

    takes_missing: ClassVar[bool] = True

    def __init__(
        self, *, categories: Sequence[Sequence[str]] | None = None, dates: Sequence[int] = ()
    ) -> None:
        self._given, self._dates = categories, np.array(dates, np.int64)
        self._state: dict[str, Any] = {}

    @abstractmethod
    def _fit_numbers(self, X: np.ndarray) -> dict[str, Any]:
        """Return what the encoding needs to know of X, (n_samples, n_numbers), without NaN."""

    @abstractmethod
    def _encode(self, X: np.ndarray) -> np.ndarray:
        """Return the encoding of X, (n_samples, n_numbers) float64, without NaN."""

    @abstractmethod
    def _n_encoded(self) -> int:
        """Return the number of columns of the encoding."""

    def fit(self, X: np.ndarray | csr_matrix) -> Self:
        """Take medians, columns that lack values, and the encoding from X.  Raises DataError."""
        if X.shape[0] == 0:
            raise DataError(f"preprocessing {self.name}: there is no row to fit on")
        if isinstance(X, DiskRows):
            X = X.sample()
        if not isinstance(X, np.ndarray):
            raise DataError(f"preprocessing {self.name}: X is sparse, and must be dense")
        given = [()] * X.shape[1] if self._given is None else self._given
        if len(given) != X.shape[1]:
            raise ValueError(
                f"categories must have an entry for each of {X.shape[1]} columns, got {len(given)}"
            )
        categories = np.array([len(labels) for labels in given], np.int64)
        self._place(categories)
        numbers = self._numbers(X)
        if np.isinf(numbers).any():
            raise DataError(f"preprocessing {self.name}: X holds numbers that are infinite")
        missing = np.isnan(numbers)
        medians = np.zeros(numbers.shape[1])
        for j in range(len(medians)):
            if not missing[:, j].all():
                medians[j] = np.median(numbers[~missing[:, j], j])
        numbers = np.where(missing, medians, numbers)
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._fit_numbers(numbers)
        if not all(np.isfinite(array).all() for array in found.values()):
            raise DataError(f"preprocessing {self.name}: X holds numbers that are too large")
        marked = np.asarray(missing.any(axis=0), np.int64)
        labels = [str(label) for each in given for label in each]  # as an array each is the longest
        own = {"categories": categories, "labels": labels, "medians": medians, "marked": marked}
        if len(self._dates):
            own["dates"] = self._dates
        self._keep({**own, **found})
        return self

    @property
    def labels(self) -> list[list[str]]:
        """Labels of each column, in the order of their codes; [] for numbers and dates."""
        ends = np.cumsum(self._categories)
        found: list[str] = self._state["labels"]
        return [found[end - n : end] for n, end in zip(self._categories, ends, strict=True)]

    @property
    def dates(self) -> list[int]:
        """Which columns are dates."""
        return list(self._dates.tolist())

    def transform(
        self, X: Any, out: np.ndarray | None = None, dtype: DTypeLike = np.float32
    ) -> Any:
        """Return the inputs for X in `out`, or if that is None in a new array of `dtype`."""
        if X.shape[1:] != (len(self._categories),):
            raise ValueError(
                f"X must have {len(self._categories)} columns, got an array of shape {X.shape}"
            )
        if not isinstance(X, np.ndarray):
            raise ValueError(f"X must be dense for preprocessing {self.name}")
        if out is None:
            out = np.empty((len(X), self.n_out), dtype)
        numbers = self._numbers(X)
        missing = np.isnan(numbers)
        end = self._n_encoded()
        out[:, :end] = self._encode(np.where(missing, self._state["medians"], numbers))
        marks = missing[:, self._state["marked"] > 0]
        out[:, end : end + marks.shape[1]] = marks
        end += marks.shape[1]
        out[:, end:] = X[:, self._one_hot_columns] == self._one_hot_codes
        return out

    @property
    def n_features(self) -> int:
        """Number of columns that were fitted."""
        return len(self._categories) if self._state else 0

    @property
    def n_out(self) -> int:
        """Columns of the encoding, marks, and categories."""
        if not self._state:
            return 0
        return self._n_encoded() + int(self._state["marked"].sum() + self._categories.sum())

    def state(self) -> dict[str, Any]:
        """Return the numbers of categories, (n_features,); their labels; what else `fit` found."""
        return dict(self._state)

    def restore(self, arrays: Mapping[str, Any]) -> Self:
        """Take what `state` returned, and return self.  Raises CheckpointError."""
        wrong = CheckpointError(f"preprocessing {self.name}: the saved arrays are not its own")
        own: tuple[str, ...] = ("categories", "labels", "medians", "marked")
        if not set(own) < set(arrays):
            raise wrong
        if not all(np.isfinite(arrays[name]).all() for name in arrays if name != "labels"):
            raise wrong
        categories, labels, medians, marked = (arrays[name] for name in own)
        if isinstance(labels, np.ndarray):  # in files of earlier versions
            labels = labels.tolist()
        if categories.dtype != np.int64 or categories.ndim != 1 or type(labels) is not list:
            raise wrong
        own = (*own, "dates")
        dates = arrays.get("dates", np.zeros(0, np.int64))
        if dates.dtype != np.int64 or dates.ndim != 1 or (np.diff(dates) <= 0).any():
            raise wrong
        if len(dates) and not (0 <= dates[0] and dates[-1] < categories.size):
            raise wrong
        if categories[dates].any():
            raise wrong
        self._dates = dates
        n_numbers = (int((categories == 0).sum()) + 4 * len(dates),)
        if ((categories < 0) | (categories > len(labels))).any():  # so that the sum cannot wrap
            raise wrong
        if len(labels) != categories.sum() or not all(type(label) is str for label in labels):
            raise wrong
        if medians.dtype != np.float64 or medians.shape != n_numbers:
            raise wrong
        if (
            marked.dtype != np.int64
            or marked.shape != n_numbers
            or not np.isin(marked, (0, 1)).all()
        ):
            raise wrong
        encoding = {name: array for name, array in arrays.items() if name not in own}
        if not self._fits(encoding, n_numbers[0]):
            raise wrong
        self._keep({**arrays, "labels": labels})
        return self

    @abstractmethod
    def _fits(self, found: dict[str, Any], n_numbers: int) -> bool:
        """Whether these arrays can be what `_fit_numbers` returned."""

    def _keep(self, state: dict[str, Any]) -> None:
        self._state = state
        self._place(state["categories"])

    def _numbers(self, X: np.ndarray) -> np.ndarray:
        """Return the columns of numbers and the parts of dates, (n_samples, n_numbers) float64."""
        numbers = X[:, self._numeric].astype(np.float64)
        if not len(self._dates):
            return numbers
        parts = date_parts(X[:, self._dates].astype(np.float64))
        return np.hstack([numbers, parts.reshape(len(X), -1)])

    def _place(self, categories: np.ndarray) -> None:
        """Tell which columns hold what.  categories: the number of labels of each."""
        self._categories = categories
        self._numeric = np.setdiff1d(np.flatnonzero(categories == 0), self._dates)
        self._n_numbers = len(self._numeric) + 5 * len(self._dates)
        self._one_hot_columns = np.repeat(np.arange(len(self._categories)), self._categories)
        self._one_hot_codes = np.concatenate(
            [np.zeros(0), *(np.arange(n, dtype=np.float64) for n in self._categories)]
        )


class SmoothClip(Tabular):
    """The middle half of each column scaled to a width of 1, and outliers drawn in smoothly.

    z = (x - median) / (quantile(x, 0.75) - quantile(x, 0.25))
    y = z / sqrt(1 + (z / 3)**2)

    So |y| < 3. Where the quartiles are equal, half the range of x takes the place of their
    difference; a constant column becomes 0.
    Holzmüller, Grinsztajn and Steinwart, Better by Default (RealMLP), 2024.
    """

    name = "smooth_clip"

    def _fit_numbers(self, X: np.ndarray) -> dict[str, Any]:
        low, median, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
        width = np.where(high > low, high - low, (X.max(axis=0) - X.min(axis=0)) / 2)
        scale = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0)
        return {"center": median, "scale": scale}

    def _encode(self, X: np.ndarray) -> np.ndarray:
        z = (X - self._state["center"]) * self._state["scale"]
        return np.asarray(z / np.hypot(1, z / 3))

    def _n_encoded(self) -> int:
        return self._n_numbers

    def _fits(self, found: dict[str, Any], n_numbers: int) -> bool:
        return set(found) == {"center", "scale"} and all(
            array.shape == (n_numbers,) and array.dtype == np.float64 for array in found.values()
        )


class QuantileTransform(Tabular):
    """Each column made normal: its ranks in the training part as quantiles of N(0, 1).

    y = Phi^-1(F(x)), Phi^-1 interpolated linearly between knots at F = (k + 0.5) / n, k = 0..n-1

    F: the distribution function of the training part; n: n_quantiles, or its rows where they are
    fewer.  The ends are flat; where many rows are equal, y is the middle of their ranks' interval.
    """

    name = "quantile"

    def __init__(
        self,
        n_quantiles: int = 1000,
        *,
        categories: Sequence[Sequence[str]] | None = None,
        dates: Sequence[int] = (),
    ) -> None:
        most = MAX_QUANTILES
        require("n_quantiles", n_quantiles, 2 <= n_quantiles <= most, f"in 2 to {most}")
        super().__init__(categories=categories, dates=dates)
        self.n_quantiles = n_quantiles

    def _fit_numbers(self, X: np.ndarray) -> dict[str, Any]:
        n = min(self.n_quantiles, len(X))
        return {"knots": np.quantile(X, (np.arange(n) + 0.5) / n, axis=0, method="hazen")}

    def _encode(self, X: np.ndarray) -> np.ndarray:
        knots = self._state["knots"]
        n = len(knots)
        normal = np.array([NormalDist().inv_cdf((k + 0.5) / n) for k in range(n)])
        y = np.empty_like(X)
        for j in range(X.shape[1]):
            # From the left and from the right: they differ where knots coincide.
            right = np.interp(X[:, j], knots[:, j], normal)
            left = -np.interp(-X[:, j], -knots[::-1, j], -normal[::-1])
            y[:, j] = (left + right) / 2
        return y

    def _n_encoded(self) -> int:
        return self._n_numbers

    def _fits(self, found: dict[str, Any], n_numbers: int) -> bool:
        knots = found.get("knots", np.zeros(0))
        return (
            set(found) == {"knots"}
            and knots.dtype == np.float64
            and knots.ndim == 2
            and 0 < len(knots) <= MAX_QUANTILES
            and knots.shape[1] == n_numbers
            and bool((np.diff(knots, axis=0) >= 0).all())
        )


class PiecewiseLinear(Tabular):
    """Each column as several: how far x is through each of its bins, between quantiles.

    y_t = min(max((x - b_t) / (b_t+1 - b_t), 0), 1)

    b: the quantiles of the training part at t / n_bins, t = 0..n_bins, equal ones taken once.
    A linear layer then has a slope for each bin.
    Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features, 2022, section 3.2.
    """

    name = "piecewise_linear"

    def __init__(
        self,
        n_bins: int = 16,
        *,
        categories: Sequence[Sequence[str]] | None = None,
        dates: Sequence[int] = (),
    ) -> None:
        require("n_bins", n_bins, 1 <= n_bins <= MAX_BINS, f"in 1 to {MAX_BINS}")
        super().__init__(categories=categories, dates=dates)
        self.n_bins = n_bins

    def _fit_numbers(self, X: np.ndarray) -> dict[str, Any]:
        columns, left, width = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
        for j in range(X.shape[1]):
            b = np.unique(np.quantile(X[:, j], np.linspace(0, 1, self.n_bins + 1)))
            if len(b) == 1:
                b = np.array([b[0], b[0] + max(1.0, abs(b[0]))])  # a constant becomes 0
            columns.append(np.full(len(b) - 1, j))
            left.append(b[:-1])
            width.append(np.diff(b))
        return {
            "column": np.concatenate(columns),
            "left": np.concatenate(left),
            "width": np.concatenate(width),
        }

    def _encode(self, X: np.ndarray) -> np.ndarray:
        t = (X[:, self._state["column"]] - self._state["left"]) / self._state["width"]
        return np.asarray(np.clip(t, 0, 1, out=t))

    def _n_encoded(self) -> int:
        return len(self._state["column"])

    def _fits(self, found: dict[str, Any], n_numbers: int) -> bool:
        if set(found) != {"column", "left", "width"}:
            return False
        column, left, width = found["column"], found["left"], found["width"]
        return (
            column.dtype == np.int64
            and left.dtype == width.dtype == np.float64
            and column.ndim == 1
            and column.shape == left.shape == width.shape
            and bool((width > 0).all())
            and np.array_equal(np.unique(column), np.arange(n_numbers))
        )
