"""Warps: random changes of where an image's pixels are looked up, and their interpolation.

A warp is drawn once for several rows and steps, as a table of which pixels make which.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minidl import kernels
from minidl.errors import require
from minidl.kernels import Array

ImageShape = tuple[int, int, int]
"""(height, width, channels); a row holds the image in this order, channels last."""
Stream = Callable[[int], np.random.Generator]
"""From a position to its own random numbers."""

BLOCK_ROWS = 32  # consecutive rows of a batch that share a shift or a warp
N_WARPS = 64  # drawn at a time,
WARP_STEPS = 128  # to serve this many steps;
WARP_STRIDE = 29  # from one step's first warp to the next's: odd, so that all are used
MAX_WARP_PIXELS = 1 << 20  # of all warps together: fewer are drawn for large images


class Warp(ABC):
    """A change of where pixels are looked up."""

    @abstractmethod
    def displacements(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        """Return source minus place, in pixels, of n warps: (n, 2, height, width), y before x."""


@dataclass(frozen=True)
class Affine(Warp):
    """Rotate, stretch, shear and move about the centre of the image.

    source = R(angle) @ [[1, 0], [k, 1]] @ diag(s_y, s_x) @ (y, x) + t

    Uniform and independent: angle within +-rotation, in degrees; log s_y and log s_x within
    +-log(1 + scale); k within +-shear; both parts of t within +-shift, in pixels.
    """

    rotation: float = 12.0
    scale: float = 0.1
    shear: float = 0.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        require("rotation", self.rotation, 0 <= self.rotation <= 180, "in [0, 180] degrees")
        for name in ("scale", "shear", "shift"):
            value = getattr(self, name)
            require(name, value, 0 <= value < math.inf, "at least 0")

    def displacements(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        """Return source minus place, in pixels, of n warps: (n, 2, height, width), y before x."""
        angle, log_y, log_x, k, t_y, t_x = rng.uniform(-1, 1, (6, n, 1, 1))
        cos, sin = (f(math.radians(self.rotation) * angle) for f in (np.cos, np.sin))
        y = np.arange(height)[:, None] - (height - 1) / 2
        x = np.arange(width) - (width - 1) / 2
        v = (1 + self.scale) ** log_y * y
        u = (1 + self.scale) ** log_x * x + self.shear * k * v
        source_y = cos * v - sin * u + self.shift * t_y
        source_x = sin * v + cos * u + self.shift * t_x
        return np.stack([source_y - y, source_x - x], axis=1)


@dataclass(frozen=True)
class Elastic(Warp):
    """Displace each pixel by a smooth random field.

    source = (y, x) + displacement * G_h @ noise @ G_w.T,    noise ~ N(0, 1)
    G[i, j] = exp(-(i - j)**2 / (2 * sigma**2)) / c_i,       sum_j G[i, j]**2 = 1

    So the standard deviation is `displacement`, in pixels, for every pixel and axis, also at the
    borders, whatever the width `sigma` of the smoothing, in pixels.
    Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks, 2003.
    """

    displacement: float = 1.0
    sigma: float = 4.0

    def __post_init__(self) -> None:
        require("displacement", self.displacement, 0 < self.displacement < math.inf, "positive")
        require("sigma", self.sigma, 0 < self.sigma < math.inf, "positive")

    def displacements(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        """Return source minus place, in pixels, of n warps: (n, 2, height, width), y before x."""
        noise = rng.standard_normal((n, 2, height, width))
        smooth = self._smoother(height) @ noise @ self._smoother(width).T
        return np.asarray(self.displacement * smooth)

    def _smoother(self, size: int) -> Array:
        i = np.arange(size)
        G = np.exp(-0.5 * ((i[:, None] - i) / self.sigma) ** 2)
        return np.asarray(G / np.sqrt((G * G).sum(axis=1, keepdims=True)))


WARPS: dict[str, type[Warp]] = {"affine": Affine, "elastic": Elastic}


class Warper:
    """Applies the sum of some warps; each drawn one is a sparse matrix, four weights a row.

    Those of steps k * WARP_STEPS to (k + 1) * WARP_STEPS - 1 are drawn from the stream at k.
    """

    def __init__(self, warp: Warp, image_shape: ImageShape, stream: Stream) -> None:
        self.warps, self._stream = [warp], stream
        self._height, self._width, _ = image_shape
        self._n_pixels = self._height * self._width
        self._ends = np.arange(0, 4 * self._n_pixels + 1, 4, dtype=np.int32)
        self._table, self._maps = -1, list[tuple[Array, Array]]()

    def __call__(self, X: Array, step: int, first_row: int) -> Array:
        """Return the rows, those of a block warped alike; a view with its columns contiguous."""
        if step // WARP_STEPS != self._table:
            self._table = step // WARP_STEPS
            rng, n = self._stream(self._table), min(N_WARPS, MAX_WARP_PIXELS // self._n_pixels)
            size = max(4, n), self._height, self._width
            fields = sum(warp.displacements(rng, *size) for warp in self.warps)
            self._maps = list(zip(*bilinear(np.asarray(fields)), strict=True))
        dtype, n = np.result_type(X.dtype, np.float32), self._n_pixels
        pixels = np.empty(X.shape[::-1], dtype)  # pixels in rows: a map is then a product S @ x
        for block, rows in blocks(first_row, len(X)):
            sources, weights = self._maps[(step * WARP_STRIDE + block) % len(self._maps)]
            weights = weights.ravel().astype(dtype, copy=False)
            S = PixelMap(weights, sources.ravel(), self._ends, (n, n))
            x = X[rows].T.astype(dtype, order="C").reshape(n, -1)
            warped = kernels.sparse_affine(S, x, None, np.empty_like(x))
            pixels[:, rows] = warped.reshape(len(pixels), -1)
        return pixels.T


@dataclass(frozen=True)
class PixelMap:
    """A sparse matrix with four numbers a row, in the CSR format; SciPy takes long to import."""

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    format: str = "csr"

    def __matmul__(self, x: Array) -> Array:
        return np.asarray(sum(self.data[i::4, None] * x[self.indices[i::4]] for i in range(4)))


def bilinear(displacements: Array) -> tuple[Array, Array]:
    """Return the four pixels around each source, and their weights: (n, height, width, 4) each.

    displacements: (n, 2, height, width).  pixels: int32, y * width + x.  weights: float32; 0
    outside of the image, where any pixel stands in.
    """
    _, _, height, width = displacements.shape
    y = np.arange(height)[:, None] + displacements[:, 0]
    x = np.arange(width) + displacements[:, 1]
    pixels = np.empty((*y.shape, 4), np.int32)
    weights = np.empty((*y.shape, 4), np.float32)
    for i, (down, right) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        row, column = np.floor(y) + down, np.floor(x) + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weights[..., i] = inside * (1 - np.abs(y - row)) * (1 - np.abs(x - column))
        pixels[..., i] = np.where(inside, row * width + column, 0)
    return pixels, weights


def blocks(first_row: int, n: int) -> Iterator[tuple[int, slice]]:
    """Blocks of the batch that n rows from `first_row` on touch: number, and slice of the rows."""
    for block in range(first_row // BLOCK_ROWS, -(-(first_row + n) // BLOCK_ROWS)):
        start = block * BLOCK_ROWS - first_row
        yield block, slice(max(0, start), start + BLOCK_ROWS)
