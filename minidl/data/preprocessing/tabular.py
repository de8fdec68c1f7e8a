"""Preprocessings for tables: skewed numbers, dates, categories and missing values.

Each puts the numbers first, encoded in its own way, then a mark for each that had missing values,
then the categories.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minidl.data.preprocessing.contract import exact, sure
from minidl.data.preprocessing.inputs import TableInputs, bins, clipped, through
from minidl.errors import DataError, require

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_BINS = 10_000
MAX_QUANTILES = 100_000


class Tabular(TableInputs):
    """Numeric columns, encoded by the subclass; marks of missing values; categories one-hot.

    y = [encoding of the numbers | 1 where missing | 1 at the category, else 0]

    X: as for `TableInputs`.
    categories: for each column its labels, whose codes are 0, 1, ..., or () for a column of
    numbers; None where all are numbers.
    dates: which columns are dates. Each becomes five numbers, after the others: year, month, day of
    the week, hour, and days since 1970.
    A missing number is replaced by the column's median; a column has a mark where the training part
    lacked values in it. A missing or new category is all zeros.
    """

    def __init__(
        self, *, categories: Sequence[Sequence[str]] | None = None, dates: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self._given = categories, dates

    @abstractmethod
    def _fit_numbers(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the encoding needs to know of X, (n_samples, n_numbers), without NaN."""

    @abstractmethod
    def _check(self, found: dict[str, Any], n_numbers: int) -> None:
        """Raise unless these arrays can be what `_fit_numbers` returned."""

    def fit(self, X: np.ndarray | csr_matrix) -> Self:
        """Take medians, columns that lack values, and the encoding from X.  Raises DataError."""
        X = self._rows_to_fit(X)
        given, dates = self._given
        if given is None:
            given = [()] * X.shape[1]
        if len(given) != X.shape[1]:
            raise ValueError(
                f"categories must have an entry for each of {X.shape[1]} columns, got {len(given)}"
            )
        n_labels = np.array([len(labels) for labels in given], np.int64)
        self._place(n_labels, dates)
        numbers = self._numbers(X)
        if np.isinf(numbers).any():
            raise DataError(f"preprocessing {self.name}: X holds numbers that are infinite")
        missing = np.isnan(numbers)
        medians = np.zeros(numbers.shape[1])
        for j in np.flatnonzero(~missing.all(axis=0)):
            medians[j] = np.median(numbers[~missing[:, j], j])
        numbers = np.where(missing, medians, numbers)
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._fit_numbers(numbers)
        if not all(np.isfinite(array).all() for array in found.values()):
            raise DataError(f"preprocessing {self.name}: X holds numbers that are too large")
        state = {
            "categories": n_labels,
            "labels": [str(label) for each in given for label in each],
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
    def dates(self) -> list[int]:
        """Which columns are dates."""
        return list(self._dates.tolist())

    def _adopt(self, arrays: dict[str, Any]) -> None:
        own = dict(arrays)
        counts, labels, medians, marked = (
            own.pop(name) for name in ("categories", "labels", "medians", "marked")
        )
        dates = own.pop("dates", np.zeros(0, np.int64))
        if isinstance(labels, np.ndarray):  # in files of earlier versions
            labels = labels.tolist()
        exact(counts, np.int64, (len(counts),))
        exact(dates, np.int64, (len(dates),))
        # Each count is checked alone, so that their sum cannot wrap.
        sure(type(labels) is list, ((counts >= 0) & (counts <= len(labels))).all())
        sure(len(labels) == counts.sum(), all(type(label) is str for label in labels))
        sure(np.isin(dates, np.flatnonzero(counts == 0)).all(), (np.diff(dates) > 0).all())
        n_numbers = int((counts == 0).sum()) + 4 * len(dates)
        exact(medians, np.float64, (n_numbers,))
        sure(np.isin(exact(marked, np.int64, (n_numbers,)), (0, 1)).all())
        self._check(own, n_numbers)
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

    def _check(self, found: dict[str, Any], n_numbers: int) -> None:
        sure(set(found) == {"center", "scale"})
        for array in found.values():
            exact(array, np.float64, (n_numbers,))


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

    def _check(self, found: dict[str, Any], n_numbers: int) -> None:
        knots = exact(found["knots"], np.float64, (len(found["knots"]), n_numbers))
        sure(len(found) == 1, 0 < len(knots) <= MAX_QUANTILES, (np.diff(knots, axis=0) >= 0).all())


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

    def _check(self, found: dict[str, Any], n_numbers: int) -> None:
        sure(set(found) == {"column", "left", "width"})
        n = (len(found["column"]),)
        column = exact(found["column"], np.int64, n)
        exact(found["left"], np.float64, n)
        sure((exact(found["width"], np.float64, n) > 0).all())
        sure(np.array_equal(np.unique(column), np.arange(n_numbers)))
