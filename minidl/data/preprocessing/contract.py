"""What every preprocessing promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.schema import Schema
from minidl.errors import CheckpointError, DataError
from minidl.reprs import call_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Preprocessing(ABC):
    """A map from raw features to the network's inputs, row by row.

    X: (n_samples, n_features), result: (n_samples, n_out); both sizes are 0 before a fit.  Each row
    is mapped by itself, to the same bits in whatever batch it comes.
    """

    name: ClassVar[str]
    takes_missing: ClassVar[bool] = False  # whether X may hold NaN
    n_features = n_out = 0

    def __repr__(self) -> str:
        return call_of(self)

    @abstractmethod
    def fit(self, X: np.ndarray | csr_matrix) -> Self:
        """Take what must be known from the training part, and return self.  Raises DataError."""

    @property
    def schema(self) -> Schema | None:
        """What the columns of the training table were, where this keeps it."""
        return None

    @property
    def labels(self) -> Sequence[Sequence[str]]:
        """Labels of each raw column, in the order of their codes; empty where it is no category."""
        return [()] * self.n_features

    @property
    def dates(self) -> Sequence[int]:
        """Which of the raw columns are dates."""
        return ()

    @abstractmethod
    def transform(
        self, X: Any, out: np.ndarray | None = None, dtype: DTypeLike = np.float32
    ) -> Any:
        """Return the inputs for X in `out`, or if that is None in a new array of `dtype`."""

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


def exact(array: np.ndarray, dtype: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a saved state.  Raises ValueError for another dtype, shape, or a NaN."""
    sure(array.dtype == dtype, array.shape == shape, np.isfinite(array).all())
    return array


def sure(*facts: Any) -> None:
    """Raise ValueError unless all these hold of a saved state."""
    if not all(facts):
        raise ValueError("the saved arrays do not fit together")
