"""Layers with noise in training, which depends on where a row stands and on nothing else."""

from functools import cache
from statistics import NormalDist

import numpy as np

from minidl.errors import require
from minidl.kernels import Array
from minidl.layers.layer import Layer

LEVELS = 65536  # of the 16 random bits that each entry is given


class Noise(Layer):
    """The base of layers with noise: 16 random bits for each entry of a batch.

    They are a function of the layer's key, which is drawn once from `rng`, of the step and of the
    row: row r of step t reads Philox at counter (r * blocks a row, t), so any worker can draw any
    rows of a batch, and what was drawn can be repeated. `begin_step(t, first_row)` sets the
    position of the next training forward; each of them moves on to the next step by itself.
    Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011 (Philox).
    """

    def __init__(self, *, rng: np.random.Generator | int) -> None:
        self.key = np.random.default_rng(rng).integers(0, 2**64, size=2, dtype=np.uint64)
        self._step, self._first_row = 0, 0

    def begin_step(self, step: int, first_row: int) -> None:
        """Position the noise: the next training forward is of this step, from this row on."""
        self._step, self._first_row = step, first_row

    def _bits(self, n_rows: int, n_features: int) -> Array:
        """16 random bits for each entry, (n_rows, n_features) uint16, of the present step."""
        blocks = -(-n_features // 16)  # of four 64-bit words; a row begins with a new one
        counter = np.array([self._first_row * blocks, self._step, 0, 0], np.uint64)
        words = np.random.Philox(key=self.key, counter=counter).random_raw(4 * blocks * n_rows)
        self._step += 1
        # Little-endian whatever the machine, so that the same seed gives the same noise.
        return words.astype("<u8", copy=False).view("<u2").reshape(n_rows, -1)[:, :n_features]


class Dropout(Noise):
    """Inverted dropout: in training each entry is zeroed with probability p.

    y  = x * m / (1 - p)
    dx = dy * m / (1 - p);   m = 0 with probability p, else 1

    p: in [0, 1), rounded to a multiple of 1/65536.  Without `train`, y = x.  Saves m / (1 - p).
    Srivastava et al., Dropout, 2014.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int) -> None:
        require("p", p, 0 <= p < 1, "in [0, 1)")
        super().__init__(rng=rng)
        self.p = p

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x * m / (1 - p), or x where nothing is dropped."""
        if not train:
            return x
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        if dropped == 0:
            self.save(None)
            return x
        scale = LEVELS / (LEVELS - dropped)
        factors, y = (self._empty(key, x.shape, x.dtype) for key in ("factors", "y"))
        np.multiply(self._bits(*x.shape) >= dropped, scale, out=factors, dtype=x.dtype)
        self.save(factors)
        return np.multiply(x, factors, out=y)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy * m / (1 - p)."""
        (factors,) = self.saved()
        if not need_dx:
            return None
        if factors is None:
            return dy
        dx = self._empty("dx", dy.shape, dy.dtype)
        np.multiply(dy, factors, out=dx)
        return dx


class GaussianNoise(Noise):
    """In training each entry gets normal noise added.

    y  = x + std * e
    dx = dy;   e ~ N(0, 1)

    std: at least 0.  Without `train`, y = x.  Saves nothing.  e is one of 65,536 quantiles of the
    normal distribution, at most 4.3 away from 0, scaled to variance 1: a look-up for the bits of
    each entry, whereas NumPy's normal generator takes now more bits and now fewer.
    Sietsma and Dow, Creating Artificial Neural Networks That Generalize, 1991.  Between linear
    layers and batch normalization it is the baseline of Rasmus et al., Ladder Networks, 2015.
    """

    def __init__(self, std: float = 0.1, *, rng: np.random.Generator | int) -> None:
        require("std", std, 0 <= std < np.inf, "at least 0")
        super().__init__(rng=rng)
        self.std = std

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x + std * e, or x outside of training."""
        if not train:
            return x
        self.save()
        if self.std == 0:
            return x
        y = self._empty("y", x.shape, x.dtype)
        quantiles = _normal_quantiles().astype(x.dtype, copy=False)
        # Not "raise": that mode looks up into a copy of y first. All bits are in range.
        np.take(quantiles, self._bits(*x.shape), out=y, mode="clip")
        y *= x.dtype.type(self.std)
        y += x
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy itself."""
        self.saved()
        return dy if need_dx else None


@cache
def _normal_quantiles() -> Array:
    """The quantiles at (k + 0.5) / 65536, which are those of -x as well, scaled to variance 1."""
    half = [NormalDist().inv_cdf((k + 0.5) / LEVELS) for k in range(LEVELS // 2)]
    quantiles = np.array([*half, *(-q for q in reversed(half))])
    return np.asarray(quantiles / quantiles.std(), np.float32)
