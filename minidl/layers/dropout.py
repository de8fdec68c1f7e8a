"""Dropout, whose noise depends on where a row stands in training and on nothing else."""

from __future__ import annotations

import numpy as np

from minidl.layers.layer import Array, Layer


class Dropout(Layer):
    """Inverted dropout: in training each entry is zeroed with probability p.

    y  = x * m / (1 - p)
    dx = dy * m / (1 - p);   m = 0 with probability p, else 1

    p: in [0, 1), rounded to a multiple of 1/65536 (16 random bits make one entry of m).  Without
    `train`, y = x.  Saves m / (1 - p).

    A mask is a function of the layer's key, which is drawn once from `rng`, of the step and of the
    row: row r of step t reads Philox at counter (r * blocks a row, t), so any worker can draw any
    rows of a batch, and a mask can be repeated. `begin_step(t, first_row)` sets the position of the
    next training forward; each of them moves on to the next step by itself.
    Srivastava et al., Dropout, 2014; Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3,
    2011 (Philox).
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p = p
        self.key = rng.integers(0, 2**64, size=2, dtype=np.uint64)
        self._step, self._first_row = 0, 0

    def begin_step(self, step: int, first_row: int) -> None:
        """Position the mask: the next training forward is of this step, from this row on."""
        self._step, self._first_row = step, first_row

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x * m / (1 - p), or x where nothing is dropped."""
        if not train:
            return x
        dropped = min(round(self.p * 65536), 65535)
        if dropped == 0:
            self._saved = (None,)
            return x
        scale = 65536 / (65536 - dropped)
        factors: Array = np.multiply(self._bits(*x.shape) >= dropped, scale, dtype=x.dtype)
        self._step += 1
        self._saved = (factors,)
        return np.multiply(x, factors)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy * m / (1 - p)."""
        (factors,) = self._take_saved()
        if not need_dx:
            return None
        return dy if factors is None else np.multiply(dy, factors)

    def _bits(self, n_rows: int, n_features: int) -> Array:
        """16 random bits for each entry, (n_rows, n_features) uint16."""
        blocks = -(-n_features // 16)  # of four 64-bit words; a row begins with a new one
        counter = np.array([self._first_row * blocks, self._step, 0, 0], np.uint64)
        words = np.random.Philox(key=self.key, counter=counter).random_raw(4 * blocks * n_rows)
        # Little-endian whatever the machine, so that the same seed gives the same mask.
        return words.astype("<u8", copy=False).view("<u2").reshape(n_rows, -1)[:, :n_features]
