"""Rows that stay on the disk: read in blocks when they are asked for, shuffled by blocks.

Files are read into buffers, not mapped: a file that is cut short is then an error and not the end
of the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from functools import reduce
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DataError
from minidl.kernels import Array, take_rows

BLOCK_BYTES = 1 << 17  # read at a time
WINDOW_BLOCKS = 64  # whose rows are shuffled together
CACHED_BLOCKS = 3 * WINDOW_BLOCKS  # a part of the rows may be spread over more blocks of the file
SAMPLE_ROWS = 100_000  # for statistics that need all values at once, such as quantiles


class DiskRows:
    """Rows of a file, (n_rows, n_columns), in C order and the byte order of this machine.

    `rows[5:9]` and `rows[numbers]` read rows into an array; `rows.part(...)` is some of the rows,
    still on the disk.
    row_shape: of a row in the file, such as that of an image; a row is flattened.
    """

    def __init__(self, path: str, offset: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.dtype, self.ndim = path, np.dtype(dtype), 2
        self.row_shape, self._offset, self._n_in_file = shape[1:], offset, shape[0]
        self.shape = shape = (shape[0], math.prod(shape[1:]))
        self._row_bytes = self.dtype.itemsize * shape[1]
        if os.path.getsize(path) < offset + shape[0] * self._row_bytes:
            raise DataError(f"{path}: is shorter than its header says")
        self.block_rows = max(1, BLOCK_BYTES // self._row_bytes)
        self._numbers: range | Array = range(shape[0])  # of these rows in the file
        n_blocks = -(-shape[0] // self.block_rows)
        self._held = np.full(min(n_blocks, CACHED_BLOCKS), -1)  # the block in each slot in memory
        self._slots = np.full(n_blocks, -1)  # of each block
        self._turns = cycle(range(len(self._held)))  # which slot is filled next
        self._cache = np.empty((len(self._held) * self.block_rows, shape[1]), self.dtype)
        self._file = open(path, "rb", buffering=0)
        weakref.finalize(self._cache, self._file.close)  # all parts of the rows share both

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        if not isinstance(key, slice | np.ndarray):
            row: Array = self[int(key) : int(key) + 1][0]
            return row
        numbers = self._in_file(key)
        if isinstance(numbers, range) and numbers.step == 1:
            return self._read(numbers.start, numbers.start + len(numbers))
        return self._take(np.array(numbers, np.int64))

    def part(self, key: Any) -> DiskRows:
        """Return some of the rows, on the disk as well; a slice is not kept as numbers of rows."""
        some = copy(self)
        some._numbers = self._in_file(key)
        some.shape = (len(some._numbers), self.shape[1])
        return some

    def _in_file(self, key: slice | Array) -> range | Array:
        """The numbers in the file of some of the rows."""
        numbers = self._numbers
        if isinstance(key, slice):
            return numbers[key]
        if len(key) and not (0 <= key.min() and key.max() < len(self)):
            raise IndexError(f"numbers of rows must be from 0 to {len(self) - 1}")
        return numbers.start + numbers.step * key if isinstance(numbers, range) else numbers[key]

    def chunks(self) -> Iterator[Array]:
        """Yield all rows, a block at a time."""
        for start in range(0, len(self), self.block_rows):
            yield self[start : start + self.block_rows]

    def min(self, axis: int | None = None, initial: Any = None) -> Any:
        """Return the least value of each column, or with axis None of all."""
        return reduce(np.minimum, (rows.min(axis, initial=initial) for rows in self.chunks()))

    def max(self, axis: int | None = None, initial: Any = None) -> Any:
        """Return the largest value of each column, or with axis None of all."""
        return reduce(np.maximum, (rows.max(axis, initial=initial) for rows in self.chunks()))

    def sample_numbers(self) -> Array:
        """Return the numbers of SAMPLE_ROWS rows at even distances, or of all if they are fewer."""
        n = min(len(self), SAMPLE_ROWS)
        return np.arange(n) * len(self) // n

    def shuffled(self, rng: np.random.Generator) -> Array:
        """Return all row numbers once, in an order that reads each block of the file once.

        The blocks are permuted, and then the rows within each window of WINDOW_BLOCKS blocks.
        """
        window = self.block_rows * WINDOW_BLOCKS
        if len(self) <= window:  # as rows in memory are
            return rng.permutation(len(self))
        blocks = rng.permutation(-(-len(self) // self.block_rows))
        numbers = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        order: Array = numbers[numbers < len(self)]
        for start in range(0, len(self), window):
            rng.shuffle(order[start : start + window])
        return order

    def fingerprint(self) -> str:
        """Return the SHA-256 of the rows in the file.

        It is kept in a file beside it, with the size and the time of the file that it is of.
        """
        found = os.stat(self.path)
        shape = self._n_in_file, self.shape[1]
        key = [found.st_size, found.st_mtime_ns, self._offset, self.dtype.str, *shape]
        beside = Path(f"{self.path}.sha256.json")
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(beside.read_text())
            if kept["of"] == key:
                return str(kept["sha256"])
        digest = hashlib.sha256()
        for start in range(0, self._n_in_file, self.block_rows):
            digest.update(self._read(start, min(start + self.block_rows, self._n_in_file)).data)
        with suppress(OSError):  # where the folder cannot be written, it is computed each time
            beside.write_text(json.dumps({"of": key, "sha256": digest.hexdigest()}))
        return digest.hexdigest()

    def _read(self, start: int, stop: int, out: Array | None = None) -> Array:
        rows: Array = np.empty((stop - start, self.shape[1]), self.dtype) if out is None else out
        view, at = rows.reshape(-1).view(np.uint8).data, self._offset + start * self._row_bytes
        while view:
            try:
                if hasattr(os, "preadv"):  # threads and forked processes share the file's position
                    n = os.preadv(self._file.fileno(), [view], at)
                else:
                    self._file.seek(at)
                    n = self._file.readinto(view)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
            if not n:
                raise DataError(f"{self.path}: has become shorter while it was read")
            view, at = view[n:], at + n
        return rows

    def _take(self, numbers: Array) -> Array:
        blocks, within = np.divmod(numbers, self.block_rows)
        missing = np.unique(blocks[self._slots[blocks] < 0])
        if len(missing) <= len(self._held):
            self._load(missing.tolist())
        slots = self._slots[blocks]
        if (slots < 0).any():  # the cache is too small for them
            return np.concatenate([self._read(n, n + 1) for n in numbers.tolist()])
        out = np.empty((len(numbers), self.shape[1]), self.dtype)
        places = slots * self.block_rows + within
        return take_rows(self._cache, places, out) if len(numbers) else out

    def _load(self, blocks: list[int]) -> None:
        """Read blocks into the cache, in the places of the oldest ones."""
        if hasattr(os, "posix_fadvise"):  # the system then reads them all at once
            for block in blocks:
                at = self._offset + block * self.block_rows * self._row_bytes
                os.posix_fadvise(self._file.fileno(), at, BLOCK_BYTES, os.POSIX_FADV_WILLNEED)
        for block in blocks:
            slot = next(self._turns)
            if (oldest := self._held[slot]) >= 0:
                self._slots[oldest] = self._held[slot] = -1
            start, first = block * self.block_rows, slot * self.block_rows
            stop = min(start + self.block_rows, self._n_in_file)
            self._read(start, stop, self._cache[first : first + stop - start])
            self._slots[block], self._held[slot] = slot, block


def npy_rows(path: str) -> DiskRows:
    """Return the rows of a .npy file; each row of more dimensions is flattened."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")  # which reads the header alone
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    on_disk = found.dtype in (np.uint8, np.float32, np.float64) and found.ndim > 1
    if not on_disk or not found.flags.c_contiguous:
        raise DataError(
            f"{path}: rows that stay on the disk must be uint8, float32 or float64 in C order, got "
            f"{found.dtype} of shape {found.shape}"
        )
    return DiskRows(path, found.offset, found.shape, found.dtype)
