"""A whole table as inputs for a network: bent numbers, dates, one-hot and mean-coded categories."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from minidl import kernels
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.scaling import exact, sure
from minidl.data.preprocessing.tabular import TableInputs, bins, check_bins, clipped, through
from minidl.data.schema import Schema
from minidl.kernels import Array

ONE_HOT = 100  # labels; a category of more is coded by means of the targets
N_BINS = 16  # of the piecewise linear encoding
PRIOR_ROWS = 10.0  # with which the mean of all targets counts in the mean of a label


class TableFeatures(TableInputs):
    """The inputs for the columns of a `Schema`, in this order:

    1. Each number x, smoothly clipped: z / sqrt(1 + (z / 3)**2), z = (x - median) / (difference of
       the quartiles).
    2. For each number that had gaps in training, 1 where it is missing.
    3. For each number, how far x is through each of 16 bins between quantiles: 0 below the bin, 1
       above it. A linear layer then has a slope for each bin.
    4. For each category of at most 100 labels, 1 at the label, else 0; a gap and a label that was
       never seen are all zeros.

    A date is five numbers: year, month, day of the week, hour, and days since 1970.  A category of
    more labels is as many numbers as there are columns of targets: the means of the targets over
    the rows of its label, shrunk towards the mean of all by 10 rows; without targets, the share of
    rows that have its label.  A missing number is replaced by the median.

    sources: for each input the place of its column in the schema.
    Holzmüller et al., Better by Default (RealMLP), 2024; Gorishniy et al., On Embeddings for
    Numerical Features, 2022, section 3.2; Micci-Barreca, A Preprocessing Scheme for
    High-Cardinality Categorical Attributes, 2001.
    """

    name: ClassVar[str] = "table_features"
    medians: ClassVar[str] = "median"
    schema: Schema

    def __init__(self, schema: Schema | None = None) -> None:
        super().__init__()
        self.schema = schema or Schema(())

    def __repr__(self) -> str:
        return f"TableFeatures({self.n_features} columns, {self.n_out} inputs)"

    def fit(self, X: Any, targets: np.ndarray | None = None) -> Self:
        """Take medians, quantiles and means of targets from encoded rows.

        X: (n_rows, n_columns), what `Schema.encode` returns.  targets: (n_rows, n), or None.
        """
        if targets is not None and isinstance(X, DiskRows):
            targets = targets[X.sample_numbers()]
        X = self._rows_to_fit(X)
        if not self.schema.columns:
            self.schema = Schema.plain([f"column {j}" for j in range(X.shape[1])])
        self._place_columns()
        self._state = {"schema": self.schema.state(), **self._means(X, targets)}
        self._keep(self._state | self._fit_numbers(self._numbers(X)), X.shape[1])
        return self

    def fit_out_of_fold(
        self, X: np.ndarray, targets: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Fit, and return the inputs of the same rows for training.

        In them, the means of a label are those over the rows of the other folds, so that no row's
        input tells its own target.  folds: (rows to fit on, rows to encode) of each.
        """
        self.fit(X, targets)
        inputs = np.asarray(self.transform(X))
        if not self._coded:
            return inputs
        fitted = self._state
        for others, rows in folds:
            self._state = fitted | self._means(X[others], targets[others])
            inputs[rows] = self.transform(X[rows])
        self._state = fitted
        return inputs

    @property
    def sources(self) -> np.ndarray:
        """For each input the place of its column in the schema, (n_out,)."""
        state, of_number = self._state, self._of_number
        marked, in_bins = of_number[state["marked"] > 0], of_number[state["bin"]]
        return np.concatenate([of_number, marked, in_bins, self.hot_columns])

    def look_up(self, W: np.ndarray, b: np.ndarray | None) -> LookUp | None:
        """Return what gives transform(X) @ W + b, or None where that takes no less time."""
        in_order = (np.diff(self._state["bin"]) >= 0).all()  # as `fit` leaves them
        found = LookUp(self, W, b) if in_order else None
        return found if found and found.pays else None

    def _encode(self, numbers: np.ndarray) -> list[np.ndarray]:
        state = self._state
        in_bins = through(numbers, state["bin"], state["left"], state["width"])
        return [clipped(numbers, state["median"], state["scale"]), in_bins]

    def _place_columns(self) -> None:
        used = self.schema.used
        n_labels = [len(column.labels) for column in used]
        self._coded = [j for j, n in enumerate(n_labels) if n > ONE_HOT]
        self._place(n_labels, self.schema.dates, self._coded)

    @property
    def _of_number(self) -> np.ndarray:
        """The column of each number."""
        widths = [self._state[f"means.{j}"].shape[1] for j in self._coded]
        coded = np.repeat(np.array(self._coded, np.int64), widths)
        return np.concatenate([self._plain, np.repeat(self._dates, 5), coded])

    def _numbers(self, X: np.ndarray) -> np.ndarray:
        parts = [super()._numbers(X)]
        for j in self._coded:
            means = self._state[f"means.{j}"]
            parts.append(means[np.where(np.isnan(X[:, j]), -1, X[:, j]).astype(np.int64)])
        return np.hstack(parts)

    def _means(self, X: np.ndarray, targets: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the shrunk means of the targets over the rows of each label, (n_labels + 1, n).

        The last row is the mean over all rows, for gaps and labels that were never seen.  Without
        targets: the share of rows of each label, (n_labels + 1, 1).
        """
        found = {}
        for j in self._coded:
            n_labels, known = len(self.schema.used[j].labels), ~np.isnan(X[:, j])
            places = X[known, j].astype(np.int64)
            counts = np.bincount(places, minlength=n_labels)[:, None]
            if targets is None:
                found[f"means.{j}"] = np.vstack([counts / max(1, len(X)), [[0.0]]])
                continue
            mean, sums = targets.mean(axis=0), np.zeros((n_labels, targets.shape[1]))
            np.add.at(sums, places, targets[known])
            shrunk = (sums + PRIOR_ROWS * mean) / (counts + PRIOR_ROWS)
            found[f"means.{j}"] = np.vstack([shrunk, mean])
        return found

    def _fit_numbers(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        missing = np.isnan(numbers)
        median, scale = np.zeros((2, numbers.shape[1]))
        edges = []
        for k in np.flatnonzero(~missing.all(axis=0)):
            x = numbers[~missing[:, k], k]
            b = np.quantile(x, np.linspace(0, 1, 4 * N_BINS + 1))
            low, median[k], high = b[N_BINS], b[2 * N_BINS], b[3 * N_BINS]
            spread = high - low if high > low else (b[-1] - b[0]) / 2
            scale[k] = 1 / spread if spread > 0 and np.isfinite(1 / spread) else 0.0
            b = np.unique(b[::4])
            if len(b) > 2:  # of a number with two values, the first input says all
                edges.append((int(k), b))
        column, left, width = bins(edges)
        marked = missing.any(axis=0).astype(np.int64)
        in_bins = {"bin": column, "left": left, "width": width}
        return {"median": median, "scale": scale, "marked": marked, **in_bins}

    def _adopt(self, arrays: dict[str, Any]) -> None:
        own, self.schema = dict(arrays), Schema.restore(arrays["schema"])
        self._state = arrays
        self._place_columns()
        for j in self._coded:
            means = own.pop(f"means.{j}")
            exact(means, np.float64, len(self.schema.used[j].labels) + 1, means.shape[1])
        n = len(self._of_number)
        exact(own["median"], np.float64, n)
        exact(own["scale"], np.float64, n)
        sure(len(own) == 7, np.isin(exact(own["marked"], np.int64, n), (0, 1)).all())
        check_bins(n, column=own["bin"], left=own["left"], width=own["width"])
        self._keep(arrays, len(self.schema.used))


class LookUp:
    """`TableFeatures` and the linear layer after it in one: transform(X) @ W + b for many rows.

    A number is above all bins below its own, and below all others. So its bins add two rows to the
    product: a share of the row of its own bin in W, and the sum of the rows of the bins below it,
    which is known before. A category adds the row of its label.
    """

    def __init__(self, features: TableFeatures, W: Array, b: Array | None) -> None:
        state, hot = features.state(), features.hot_columns
        n_in, n_bins = len(W), len(state["bin"])
        self._features, self._state, self._b = features, state, b
        self._binned, self._first, counts = np.unique(
            state["bin"], return_index=True, return_counts=True
        )
        self._hot, first_hot, self._n_labels = np.unique(hot, return_index=True, return_counts=True)
        self._n_plain = n_plain = n_in - n_bins - len(hot)  # the inputs before those of the bins
        self._rows = kernels.zeros((n_in + n_bins, W.shape[1]), W.dtype)
        self._rows[:n_in] = W
        self._edges = np.full((counts.max(initial=1) - 1, len(counts)), np.inf)
        for j, (start, n) in enumerate(zip(self._first, counts, strict=True)):
            self._edges[: n - 1, j] = state["left"][start + 1 : start + n]
            own, below = W[n_plain + start :][:n], self._rows[n_in + start :][:n]
            below[1:] = np.cumsum(own[:-1], axis=0, dtype=np.float64)
        # Where the rows of each input, number and category begin.
        firsts = [np.arange(n_plain), n_plain + self._first, n_in + self._first]
        self._places = np.concatenate([*firsts, n_plain + n_bins + first_hot]).astype(np.int32)
        self.pays = 4 * len(self._places) <= n_in  # a product adds a row in a quarter of the time

    def __call__(self, X: Array) -> Array:
        """Return transform(X) @ W + b, to the rounding of its dtype."""
        state = self._state
        numbers, marks = self._features.filled(X)
        x, labels = numbers[:, self._binned], X[:, self._hot]
        bins = np.zeros(x.shape, np.int16)  # MAX_BINS are fewer
        for edge in self._edges:
            bins += x > edge
        own = bins + self._first
        share = np.clip((x - state["left"][own]) / state["width"][own], 0, 1)
        known = (labels >= 0) & (labels < self._n_labels)
        plain = clipped(numbers, state["median"], state["scale"])
        parts = [plain, marks, share, np.ones_like(share), known]
        factors: Array = np.concatenate(parts, axis=1, dtype=self._rows.dtype)
        places = np.tile(self._places, (len(X), 1))
        beyond = [bins, bins, np.where(known, labels, 0).astype(np.int16)]
        places[:, self._n_plain :] += np.concatenate(beyond, axis=1)
        return kernels.sums_of_rows(factors, places, self._rows, self._b)
