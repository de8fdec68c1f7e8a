"""The shards of a batch: where each begins and ends, who computes it, and how sums are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl.kernels import Array


def half_of(n: int) -> int:
    """Return how many of n things the left half of the tree holds: 2**k < n; 0 of a single one.

    The sum of n arrays is that of the left half plus that of the others, each made in the same way:
    ((0 + 1) + (2 + 3)) + (4 + 5). So an aligned block of 2**k arrays is a partial sum of the whole.
    """
    return 1 << (n - 1).bit_length() >> 1


def tree_sum(arrays: Sequence[Array], out: Array) -> Array:
    """Return the sum of arrays, in the order of `half_of`, in `out`, which may be one of them."""
    half = half_of(len(arrays))
    if half == 0:
        out[...] = arrays[0]
        return out
    left, right = (
        part[0] if len(part) == 1 else tree_sum(part, np.empty_like(out))
        for part in (arrays[:half], arrays[half:])
    )
    return np.add(left, right, out=out)


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]


def block_size(n_shards: int, n_ranks: int) -> int:
    """Return how many consecutive shards a rank computes: the smallest power of two that is enough.

    So each rank holds an aligned block, whose sum is a partial sum of the tree.
    """
    return 1 << (-(-n_shards // n_ranks) - 1).bit_length()
