"""The shards of a batch: where each begins and ends, who computes it, and how sums are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl.kernels import Array


class TreeSum:
    """The sum of arrays that are given one after the other, added in a fixed binary tree.

    ((0 + 1) + (2 + 3)) + (4 + 5): neighbours first, then their sums. So the sum of an aligned block
    of 2**k arrays is a partial sum of the whole. Holds one array for each level of the tree.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, Array]] = []  # (level, partial sum), the largest first
        self._free: list[Array] = []

    def add(self, array: Array) -> None:
        """Add the next array, but for the last; it is copied."""
        level, own = 0, self._free.pop() if self._free else np.empty_like(array)
        own[...] = array
        while self._levels and self._levels[-1][0] == level:
            own, level = self._join(own), level + 1
        self._levels.append((level, own))

    def finish(self, last: Array) -> None:
        """Add the last array, which becomes the sum of all, and begin anew."""
        while self._levels:
            _, left = self._levels.pop()
            np.add(left, last, out=last)
            self._free.append(left)

    def total(self, arrays: Sequence[Array]) -> Array:
        """Return the sum of arrays, in place of the last one."""
        for array in arrays[:-1]:
            self.add(array)
        self.finish(arrays[-1])
        return arrays[-1]

    def _join(self, right: Array) -> Array:
        _, left = self._levels.pop()
        self._free.append(right)
        return np.add(left, right, out=left)


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]


def block_size(n_shards: int, n_ranks: int) -> int:
    """Return how many consecutive shards a rank computes: the smallest power of two that is enough.

    So each rank holds an aligned block, whose sum is a partial sum of the tree.
    """
    size = 1
    while size * n_ranks < n_shards:
        size *= 2
    return size
