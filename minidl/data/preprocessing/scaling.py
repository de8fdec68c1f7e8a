"""What every preprocessing promises, and those that shift and scale, all features or each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.disk import DiskRows
from minidl.data.schema import Schema
from minidl.errors import CheckpointError, DataError
from minidl.reprs import call_of


class Preprocessing(ABC):
    """A map from raw features to the network's inputs, row by row.

    X: (n_samples, n_features), result: (n_samples, n_out); both sizes are 0 before a fit.  Each row
    is mapped by itself, to the same bits in whatever batch it comes.
    schema: what the columns of the training table were, where this keeps it.
    dates: which of the raw columns are dates.
    """

    name: ClassVar[str]
    takes_missing: ClassVar[bool] = False  # whether X may hold NaN
    n_features = n_out = 0
    schema: Schema | None = None
    dates: Sequence[int] = ()

    def __repr__(self) -> str:
        return call_of(self)

    @property
    def labels(self) -> Sequence[Sequence[str]]:
        """Labels of each raw column, in the order of their codes; empty where it is no category."""
        return [()] * self.n_features

    @abstractmethod
    def fit(self, X: Any) -> Self:
        """Take what must be known from the training part, and return self.  Raises DataError."""

    @abstractmethod
    def transform(self, X: Any, dtype: DTypeLike = np.float32) -> Any:
        """Return the inputs for X in a new array of `dtype`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `fit` found, as named arrays and lists of texts to be saved."""

    def restore(self, arrays: Mapping[str, Any]) -> Self:
        """Take what `state` returned, and return self.  Raises CheckpointError."""
        try:
            self._adopt(dict(arrays))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"preprocessing {self.name}: the saved arrays are not its own"
            ) from error
        return self

    @abstractmethod
    def _adopt(self, arrays: dict[str, Any]) -> None:
        """Take what `state` returned.  Raises KeyError, TypeError or ValueError for what is not."""

    def _check_rows(self, X: Any) -> None:
        if X.shape[0] == 0:
            raise DataError(f"preprocessing {self.name}: there is no row to fit on")

    def _check_columns(self, X: Any) -> None:
        if X.shape[1:] != (self.n_features,):
            raise ValueError(
                f"X must have {self.n_features} columns, got an array of shape {X.shape}"
            )


def exact(array: np.ndarray, dtype: DTypeLike, *shape: int) -> np.ndarray:
    """Return an array of a saved state.  Raises ValueError for another dtype, shape, or a NaN."""
    sure(array.dtype == dtype, array.shape == shape, np.isfinite(array).all())
    return array


def sure(*facts: Any) -> None:
    """Raise ValueError unless all these hold of a saved state."""
    if not all(facts):
        raise ValueError("the saved arrays do not fit together")


class Scaling(Preprocessing):
    """A shift and a scale, for all features or for each.

    y = (x - center) * scale

    center, scale: () or (n_features,) float64; scale = 1 / spread, and 1 where the spread is 0, so
    that a constant feature becomes 0.  Subtracting first keeps the digits of a feature that is far
    from zero.  A CSR matrix stays one, and is refused where centring would fill it.
    """

    needs_center: ClassVar[bool] = True

    def __init__(self) -> None:
        self._keep(np.zeros(()), np.ones(()), 0)

    @abstractmethod
    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        """Return center and spread, each () or (n_features,), of X with at least one row."""

    def fit(self, X: Any) -> Self:
        """Take center and scale from X, in float64.  Raises DataError, also for a CSR matrix."""
        self._check_rows(X)
        if self.needs_center and hasattr(X, "tocsr"):
            raise DataError(
                f"preprocessing {self.name}: X is sparse, and taking off a center would fill every "
                "zero; use unit or none"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._center_and_spread(X)
        center, spread = (np.asarray(value, dtype=np.float64) for value in found)
        if not (np.isfinite(center).all() and np.isfinite(spread).all()):
            raise DataError(
                f"preprocessing {self.name}: X holds numbers that are not finite or too large"
            )
        self._keep(center, 1.0 / np.where(spread == 0, 1.0, spread), X.shape[1])
        return self

    def transform(self, X: Any, dtype: DTypeLike = np.float32) -> Any:
        """Return (X - center) * scale in a new array; for CSR a matrix that shares X's indices."""
        self._check_columns(X)
        if not isinstance(X, np.ndarray):
            if self.needs_center:
                raise ValueError("X must be dense for a preprocessing that centers")
            values = (X.data * self.scale).astype(dtype)
            return type(X)((values, X.indices, X.indptr), shape=X.shape)
        # Bytes are exact in float32; float64 features are scaled before they are rounded.
        y = X.astype(np.result_type(X.dtype, dtype), order="C")
        if y.dtype not in self._constants:  # None where they change nothing
            center = self.center.astype(y.dtype) if self.center.any() else None
            scale = self.scale.astype(y.dtype) if (self.scale != 1).any() else None
            self._constants[y.dtype] = center, scale
        center, scale = self._constants[y.dtype]
        if center is not None:
            y -= center
        if scale is not None:
            y *= scale
        return y.astype(dtype, copy=False)

    def state(self) -> dict[str, np.ndarray]:
        """Return center and scale, () or (n_features,) float64, and n_features, () int64."""
        n_features = np.array(self.n_features, np.int64)
        return {"center": self.center, "scale": self.scale, "n_features": n_features}

    def _adopt(self, arrays: dict[str, Any]) -> None:
        center, scale = arrays["center"], arrays["scale"]
        n = int(exact(arrays["n_features"], np.int64))
        sure(len(arrays) == 3, n >= 1)
        for array in (center, scale):
            exact(array, np.float64, *(n,) * array.ndim)
        self._keep(center, scale, n)

    def _keep(self, center: np.ndarray, scale: np.ndarray, n_features: int) -> None:
        self.center, self.scale = center, scale
        self.n_features = self.n_out = n_features
        self._constants: dict[np.dtype[Any], tuple[Any, Any]] = {}  # both in the dtypes so far


class Unchanged(Scaling):
    """The features as they are.

    y = x
    """

    name = "none"
    needs_center = False

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        return 0.0, 1.0


class Unit(Scaling):
    """Into [-1, 1], zeros kept.

    y = x / 255 for bytes, else y = x / max(abs(x)) over all features
    """

    name = "unit"
    needs_center = False

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        if X.dtype == np.uint8:
            return 0.0, 255.0
        values = X.data if hasattr(X, "tocsr") else X
        return 0.0, max(float(values.max(initial=0)), -float(values.min(initial=0)))


class GlobalStandard(Scaling):
    """One mean and one standard deviation over all features, which keeps the contrast of an image.

    y = (x - mean(x)) / std(x)
    """

    name = "global_standard"

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        return _mean_and_deviation(X, float(X[0][0]), None)


class Standard(Scaling):
    """Mean 0 and standard deviation 1 for each feature.

    y = (x - mean(x)) / std(x)
    """

    name = "standard"

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        return _mean_and_deviation(X, X[0].astype(np.float64), 0)


class MinMax(Scaling):
    """Each feature into [0, 1] on the training part.

    y = (x - min(x)) / (max(x) - min(x))
    """

    name = "minmax"

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        least = X.min(axis=0).astype(np.float64)
        return least, X.max(axis=0) - least


class Robust(Scaling):
    """The median and the range of the middle half of each feature, which outliers do not move.

    y = (x - median(x)) / (quantile(x, 0.75) - quantile(x, 0.25))
    """

    name = "robust"

    def _center_and_spread(self, X: Any) -> tuple[Any, Any]:
        X = X[X.sample_numbers()] if isinstance(X, DiskRows) else X
        low, median, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
        return median, high - low


def _mean_and_deviation(X: Any, origin: Any, axis: int | None) -> tuple[Any, Any]:
    """Return mean and deviation over an axis, of sums of d = x - origin, one of the x, and d**2.

    var(x) >= (origin - mean(x))**2 / n, so the difference below loses a factor n of the digits and
    no more, and is exactly 0 for a constant.  Bytes are never widened all at once.
    """
    n, total, squares = len(X) if axis == 0 else X.shape[0] * X.shape[1], 0.0, 0.0
    n_rows = max(1, 2**16 // X.shape[1])
    for start in range(0, len(X), n_rows):
        d = np.subtract(X[start : start + n_rows], origin, dtype=np.float64)
        total += d.sum(axis=axis)
        squares += np.einsum("ij,ij->j" if axis == 0 else "ij,ij->", d, d)
    mean = total / n
    return origin + mean, np.sqrt(np.maximum(squares / n - mean * mean, 0.0))
