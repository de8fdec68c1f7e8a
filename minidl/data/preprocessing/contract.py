"""What every preprocessing promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.data.schema import Schema
from minidl.reprs import call_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Preprocessing(ABC):
    """A map from raw features to the network's inputs, row by row.

    X: (n_samples, n_features), result: (n_samples, n_out).  Each row is mapped by itself, to the
    same bits in whatever batch it comes.
    """

    name: ClassVar[str]
    takes_missing: ClassVar[bool] = False  # whether X may hold NaN

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

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of raw columns that `fit` was given; 0 before."""

    @property
    @abstractmethod
    def n_out(self) -> int:
        """Number of columns that `transform` returns."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `fit` found, as named arrays and lists of texts to be saved."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, Any]) -> Self:
        """Take what `state` returned, and return self.  Raises CheckpointError."""
