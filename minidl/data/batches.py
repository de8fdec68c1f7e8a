"""From arrays to mini-batches: an order of the rows, gathered a few batches at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minidl import kernels
from minidl.data.disk import DiskRows
from minidl.kernels import Array

Transform = Callable[[Any], Any]
"""From raw rows to the model's inputs, row by row, such as a fitted preprocessing's `transform`."""
Augment = Callable[[Array, int, int], Array]
"""(raw rows, step, first row of the batch) -> distorted rows, drawn anew for each step and row."""

CHUNK_BYTES = 1 << 18  # gathered at once: amortises calls over small batches, stays in the cache
MOST_TRANSFORMED_BYTES = 1 << 30  # of rows that are transformed once instead of in each epoch
TRANSFORMED_AT_ONCE = 4096  # rows: what a transform needs besides its result stays small


class Rows(NamedTuple):
    """Samples in rows: X, (n_samples, n_features); y; and a weight for each, or None for all 1."""

    X: Any
    y: Array
    sample_weight: Array | None = None

    def select(self, rows: Any) -> Rows:
        """Return some of the rows."""
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return Rows(self.X[rows], self.y[rows], weight)


def transformed(rows: Rows, transform: Transform, dtype: Any) -> Rows | None:
    """Return the rows as the model's inputs, in `dtype`; None where they take too much memory.

    A transform maps each row by itself, so that the bits are those of any batch.
    """
    n_rows, first = rows.X.shape[0], transform(rows.X[:1])
    if not isinstance(first, np.ndarray):  # sparse: as large as the rows are
        return rows._replace(X=transform(rows.X).astype(dtype, copy=False))
    if n_rows * first.shape[1] * np.dtype(dtype).itemsize > MOST_TRANSFORMED_BYTES:
        return None
    X = np.empty((n_rows, first.shape[1]), dtype)
    for start in range(0, n_rows, TRANSFORMED_AT_ONCE):
        part = slice(start, start + TRANSFORMED_AT_ONCE)
        X[part] = transform(rows.X[part])
    return rows._replace(X=X)


def batch_bounds(
    n_samples: int, batch_size: int, *, join_single_row: bool = True
) -> list[tuple[int, int]]:
    """Return (start, stop) of each batch; a single row left over joins the last batch.

    One row would make a noisy step, and has no batch statistics.
    """
    starts = list(range(0, n_samples, batch_size))
    if join_single_row and len(starts) > 1 and n_samples - starts[-1] == 1:
        starts.pop()
    return list(pairwise([*starts, n_samples]))


class Batches:
    """The mini-batches of one data set, in any order of its rows.

    Rows stay in memory as they came (images as bytes); each batch is gathered, distorted where
    asked, transformed, and given in the model's dtype.

    part: from the number of rows of a batch to those that are wanted of its X; None for all.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        dtype: Any,
        transform: Transform | None = None,
        augment: Augment | None = None,
        join_single_row: bool = True,
        part: Callable[[int], slice] | None = None,
    ) -> None:
        self.rows, self._part = rows, part
        self.bounds = batch_bounds(rows.X.shape[0], batch_size, join_single_row=join_single_row)
        self._dtype = np.dtype(dtype)
        self._transform = transform
        self._augment = augment
        self._buffer: Array | None = None  # the rows that are gathered at once
        largest = max((stop - start for start, stop in self.bounds), default=0)
        self._per_chunk = 1
        if augment is None and part is None and isinstance(rows.X, np.ndarray | DiskRows):
            given = rows.X if transform is None else transform(rows.X[:1].copy())  # labels: many
            row_bytes = self._dtype.itemsize * max(rows.X.shape[1], given.shape[1])
            self._per_chunk = max(1, CHUNK_BYTES // max(1, row_bytes * largest))

    def __len__(self) -> int:
        """Return the number of batches, which is the number of steps in an epoch."""
        return len(self.bounds)

    def in_order(self, order: Array, first_batch: int, first_step: int) -> Iterator[Rows]:
        """Yield the batches of the rows taken in `order`, from `first_batch` on.

        `first_step` is the training step of the first one yielded; it keys the augmentation.
        The arrays of one batch are only good until the next is asked for.
        """
        X, y, weight = self.rows
        n_rows = X.shape[0]
        if order.shape != (n_rows,) or order.min() < 0 or order.max() >= n_rows:
            raise ValueError(f"order must be {n_rows} indices of rows, got shape {order.shape}")
        for first in range(first_batch, len(self.bounds), self._per_chunk):
            bounds = self.bounds[first : first + self._per_chunk]
            start, stop = bounds[0][0], bounds[-1][1]
            taken = order[start:stop]
            part = slice(0, None) if self._part is None else self._part(stop - start)
            wanted = taken[part]
            if isinstance(X, np.ndarray):
                if self._buffer is None or self._buffer.shape[0] < len(wanted):
                    self._buffer = kernels.zeros((len(wanted), X.shape[1]), X.dtype)
                x = kernels.take_rows(X, wanted, self._buffer[: len(wanted)])
            else:
                x = X[wanted]
            if self._augment is not None:
                x = self._augment(x, first_step + first - first_batch, part.start)
            if self._transform is not None:
                x = self._transform(x)
            if x.dtype != self._dtype:
                x = x.astype(self._dtype)
            chunk = Rows(x, y.take(taken, axis=0), None if weight is None else weight.take(taken))
            if len(bounds) == 1:
                yield chunk
            else:
                yield from (chunk.select(slice(a - start, b - start)) for a, b in bounds)
