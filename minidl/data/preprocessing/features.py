"""A whole table as inputs for a network: bent numbers, dates, one-hot and mean-coded categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.cells import date_parts
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.contract import Preprocessing
from minidl.data.schema import Schema
from minidl.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ONE_HOT = 100  # labels; a category of more is coded by means of the targets
N_BINS = 16  # of the piecewise linear encoding
PRIOR_ROWS = 10.0  # with which the mean of all targets counts in the mean of a label
OUTLIER = 3.0  # widths of the middle half beyond which a number is drawn in


class TableFeatures(Preprocessing):
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
    takes_missing: ClassVar[bool] = True

    def __init__(self, schema: Schema | None = None) -> None:
        self._schema = schema
        self._state: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"TableFeatures({self.n_features} columns, {self.n_out} inputs)"

    @property
    def schema(self) -> Schema:
        """The meaning of the columns of the table."""
        assert self._schema is not None
        return self._schema

    def fit(self, X: np.ndarray | csr_matrix, targets: np.ndarray | None = None) -> Self:
        """Take medians, quantiles and means of targets from encoded rows.

        X: (n_rows, n_columns), what `Schema.encode` returns.  targets: (n_rows, n), or None.
        """
        if X.shape[0] == 0:
            raise DataError(f"preprocessing {self.name}: there is no row to fit on")
        if isinstance(X, DiskRows):
            numbers = X.sample_numbers()
            X, targets = X[numbers], None if targets is None else targets[numbers]
        if not isinstance(X, np.ndarray):
            raise DataError(f"preprocessing {self.name}: X is sparse, and must be dense")
        if self._schema is None:
            names = [f"column {j}" for j in range(X.shape[1])]
            self._schema = Schema.plain(names, [()] * len(names))
        self._state = {"schema": self.schema.state()}
        self._place()
        for j in self._coded:
            n_labels = len(self.schema.used[j].labels)
            self._state[f"means.{j}"] = _means(X[:, j], n_labels, targets)
        self._fit_numbers(self._numbers(X))
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
        means = {f"means.{j}": self._state[f"means.{j}"] for j in self._coded}
        for others, rows in folds:
            for j in self._coded:
                n_labels = len(self.schema.used[j].labels)
                self._state[f"means.{j}"] = _means(X[others, j], n_labels, targets[others])
            inputs[rows] = self.transform(X[rows])
        self._state.update(means)
        return inputs

    def transform(
        self, X: Any, out: np.ndarray | None = None, dtype: DTypeLike = np.float32
    ) -> Any:
        """Return the inputs for encoded rows in `out`, or if that is None in a new array."""
        state, n_columns = self._state, len(self.schema.used)
        if not isinstance(X, np.ndarray):
            raise ValueError(f"X must be dense for preprocessing {self.name}")
        if X.shape[1:] != (n_columns,):
            raise ValueError(f"X must have {n_columns} columns, got an array of shape {X.shape}")
        if out is None:
            out = np.empty((len(X), self.n_out), dtype)
        numbers = self._numbers(X)
        missing = np.isnan(numbers)
        numbers = np.where(missing, state["median"], numbers)
        z = (numbers - state["median"]) * state["scale"]
        marked = missing[:, state["marked"] > 0]
        parts = [z / np.hypot(1, z / OUTLIER), marked]
        bins = (numbers[:, state["bin"]] - state["left"]) / state["width"]
        parts += [np.clip(bins, 0, 1, out=bins), X[:, self._hot_columns] == self._hot_codes]
        start = 0
        for part in parts:
            out[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return out

    @property
    def sources(self) -> np.ndarray:
        """For each input the place of its column in the schema, (n_out,)."""
        state, of_number = self._state, self._of_number
        marked, bins = of_number[state["marked"] > 0], of_number[state["bin"]]
        return np.concatenate([of_number, marked, bins, self._hot_columns])

    @property
    def n_features(self) -> int:
        """Number of columns of encoded rows; 0 before a fit."""
        return len(self.schema.used) if self._state else 0

    @property
    def n_out(self) -> int:
        """Number of inputs; 0 before a fit."""
        if not self._state:
            return 0
        state = self._state
        n_numbers = len(self._of_number) + int(state["marked"].sum()) + len(state["bin"])
        return n_numbers + len(self._hot_columns)

    def state(self) -> dict[str, np.ndarray]:
        """Return the schema and what `fit` found."""
        return dict(self._state)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take what `state` returned, and return self.  Raises CheckpointError."""
        wrong = CheckpointError(f"preprocessing {self.name}: the saved arrays are not its own")
        try:
            self._schema = Schema.restore(arrays["schema"])
            self._state = dict(arrays)
            self._place()
            if not self._fits():
                raise wrong
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise wrong from error
        return self

    def _place(self) -> None:
        """Tell which columns hold what, and of which column each number is."""
        used = self.schema.used
        hot = [c.kind == "category" and len(c.labels) <= ONE_HOT for c in used]
        self._plain = [j for j, c in enumerate(used) if c.kind == "number"]
        self._dates = [j for j, c in enumerate(used) if c.kind == "date"]
        self._coded = [j for j, c in enumerate(used) if c.kind == "category" and not hot[j]]
        sizes = [len(c.labels) * each for c, each in zip(used, hot, strict=True)]
        self._hot_columns = np.repeat(np.arange(len(used)), sizes)
        self._hot_codes = np.concatenate([np.arange(n, dtype=np.float64) for n in sizes])

    @property
    def _of_number(self) -> np.ndarray:
        widths = [self._state[f"means.{j}"].shape[1] for j in self._coded]
        return np.concatenate(
            [self._plain, np.repeat(self._dates, 5), np.repeat(self._coded, widths)]
        ).astype(np.int64)

    def _numbers(self, X: np.ndarray) -> np.ndarray:
        """Return the columns of numbers, parts of dates and means of labels, as float64."""
        dates = date_parts(X[:, self._dates]).reshape(len(X), 5 * len(self._dates))
        parts = [X[:, self._plain], dates]
        for j in self._coded:
            means = self._state[f"means.{j}"]
            unknown = np.isnan(X[:, j])
            parts.append(means[np.where(unknown, len(means) - 1, X[:, j]).astype(np.int64)])
        return np.hstack(parts)

    def _fit_numbers(self, numbers: np.ndarray) -> None:
        missing = np.isnan(numbers)
        n = numbers.shape[1]
        median, scale = np.zeros(n), np.zeros(n)
        bins, left, width = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
        for k in range(n):
            x = numbers[~missing[:, k], k]
            if not x.size:
                continue
            b = np.quantile(x, np.linspace(0, 1, 4 * N_BINS + 1))
            low, median[k], high = b[N_BINS], b[2 * N_BINS], b[3 * N_BINS]
            spread = high - low if high > low else (b[-1] - b[0]) / 2
            scale[k] = 1 / spread if spread > 0 and np.isfinite(1 / spread) else 0.0
            b = np.unique(b[::4])
            if len(b) > 2:  # of a number with two values, the first input says all
                bins.append(np.full(len(b) - 1, k))
                left.append(b[:-1])
                width.append(np.diff(b))
        self._state |= {
            "median": median,
            "scale": scale,
            "marked": missing.any(axis=0).astype(np.int64),
            "bin": np.concatenate(bins),
            "left": np.concatenate(left),
            "width": np.concatenate(width),
        }

    def _fits(self) -> bool:
        """Whether the arrays can be what `fit` left."""
        state, n = self._state, len(self._of_number)
        names = {"schema", "median", "scale", "marked", "bin", "left", "width"}
        names |= {f"means.{j}" for j in self._coded}
        floats = [state[name] for name in names - {"schema", "marked", "bin"}]
        means = [(state[f"means.{j}"], len(self.schema.used[j].labels) + 1) for j in self._coded]
        return (
            set(state) == names
            and all(a.dtype == np.float64 and bool(np.isfinite(a).all()) for a in floats)
            and all(a.ndim == 2 and len(a) == rows for a, rows in means)
            and state["median"].shape == state["scale"].shape == state["marked"].shape == (n,)
            and state["bin"].shape == state["left"].shape == state["width"].shape
            and state["bin"].dtype == state["marked"].dtype == np.int64
            and bool(np.isin(state["marked"], (0, 1)).all() and (state["width"] > 0).all())
            and bool(((state["bin"] >= 0) & (state["bin"] < n)).all())
        )


def _means(codes: np.ndarray, n_labels: int, targets: np.ndarray | None) -> np.ndarray:
    """Return the shrunk means of the targets over the rows of each label, (n_labels + 1, n).

    The last row is the mean over all rows, for gaps and labels that were never seen.  Without
    targets: the share of rows of each label, (n_labels + 1, 1).
    """
    known = ~np.isnan(codes)
    places = codes[known].astype(np.int64)
    counts = np.bincount(places, minlength=n_labels)[:, None]
    if targets is None:
        return np.vstack([counts / max(1, len(codes)), [[0.0]]])
    mean = targets.mean(axis=0)
    sums = np.zeros((n_labels, targets.shape[1]))
    np.add.at(sums, places, targets[known])
    return np.vstack([(sums + PRIOR_ROWS * mean) / (counts + PRIOR_ROWS), mean])
