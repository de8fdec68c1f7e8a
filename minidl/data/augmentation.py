"""Random changes of training rows: images are moved, warped or partly erased, rows are mixed.

What is drawn for a row depends on the seed, the training step and the row's place in the batch,
and on nothing else: a resumed run, or one on more threads, sees the same images.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from minidl.data.batches import Augment, Rows
from minidl.data.warping import BLOCK_ROWS, WARPS, ImageShape, Stream, Warp, Warper, blocks
from minidl.errors import require
from minidl.kernels import Array

MOST_VIEW_PIXELS = 4  # of moves at test time: 81 predictions instead of one


class Change(ABC):
    """A change of pixels that keeps their dtype."""

    @abstractmethod
    def apply(self, images: Array, rng: np.random.Generator, first_row: int) -> Array:
        """Return the changed images, (n, height, width, channels), in a new array.

        `rng` starts anew in each step. What is drawn for an image may depend on its place in the
        batch, which for the first of them is `first_row`, but not on where a call begins or ends.
        """


Augmentation: TypeAlias = Change | Warp


@dataclass(frozen=True)
class Shift(Change):
    """Move by whole pixels, up to `pixels` in either direction of either axis, uniformly.

    Exact: no interpolation, and bytes stay bytes. What comes in from outside is 0.
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        require("pixels", self.pixels, self.pixels >= 1, "at least 1")

    def apply(self, images: Array, rng: np.random.Generator, first_row: int) -> Array:
        """Return the images, those of a block moved alike."""
        moved = np.zeros_like(images)
        n_blocks = -(-(first_row + len(images)) // BLOCK_ROWS)
        moves = np.floor(rng.random((n_blocks, 2)) * (2 * self.pixels + 1)) - self.pixels
        for block, rows in blocks(first_row, len(images)):
            _move(images[rows], *moves[block].astype(int), out=moved[rows])
        return moved


@dataclass(frozen=True)
class Erasing(Change):
    """Set a rectangle to 0, in a share `p` of the images.

    Its height and width are uniform from one pixel to `size` times the image's, its place uniform
    over those where it lies inside.
    Zhong et al., Random Erasing Data Augmentation, 2017.
    """

    p: float = 0.5
    size: float = 0.4

    def __post_init__(self) -> None:
        require("p", self.p, 0 < self.p <= 1, "in (0, 1]")
        require("size", self.size, 0 < self.size <= 1, "in (0, 1]")

    def apply(self, images: Array, rng: np.random.Generator, first_row: int) -> Array:
        """Return the images, each with a rectangle of its own or none."""
        n, height, width, _ = images.shape
        drawn = rng.random((first_row + n, 5))[first_row:, :, None]
        rows = self._stretch(drawn[:, 0], drawn[:, 1], height)
        columns = self._stretch(drawn[:, 2], drawn[:, 3], width) & (drawn[:, 4] < self.p)
        erased = rows[:, :, None] & columns[:, None, :]
        return images * ~erased[..., None]

    def _stretch(self, length: Array, place: Array, size: int) -> Array:
        """Which of `size` pixels are in a stretch of random length and place: (n, size)."""
        n_erased = 1 + np.floor(length * math.floor(self.size * size))
        start = np.floor(place * (size - n_erased + 1))
        i = np.arange(size)
        return np.asarray((start <= i) & (i < start + n_erased))


AUGMENTATIONS: dict[str, type[Change] | type[Warp]] = {"shift": Shift, "erasing": Erasing, **WARPS}


class ImageAugmentation:
    """A list of augmentations as one function of (rows, step, first_row).

    rows: (n, height * width * channels), left as they are.  first_row: the first one's place in
    the batch.  Warps that are neighbours in the list add up their displacements, so that an image
    is interpolated once; their result is float32, or wider where the rows are.
    `rng` gives the key of all that is drawn later.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        image_shape: ImageShape,
        *,
        rng: np.random.Generator | int,
    ) -> None:
        rng = np.random.default_rng(rng)
        self.image_shape = image_shape
        self._stages: list[Augment] = []
        for each in augmentations:
            if isinstance(each, Change):
                self._stages.append(partial(_changed, each, image_shape, _streams(rng)))
            elif self._stages and isinstance(warper := self._stages[-1], Warper):
                warper.warps.append(each)
            else:
                self._stages.append(Warper(each, image_shape, _streams(rng)))

    def __call__(self, X: Array, step: int, first_row: int = 0) -> Array:
        """Return the changed rows."""
        if X.shape[1:] != (math.prod(self.image_shape),):
            raise ValueError(f"X must hold images of shape {self.image_shape}, got {X.shape}")
        for stage in self._stages:
            X = stage(X, step, first_row)
        return X


class Mixup:
    """Rows and their targets mixed in pairs, with one random share for a whole batch.

    x_i = s * x_i + (1 - s) * x_j,    s ~ Beta(alpha, alpha),    j = n - 1 - i
    t_i = s * t_i + (1 - s) * t_j

    The order of the rows is random, so the pairs are.  Labels become soft targets over `n_classes`;
    targets of a regression (`n_classes` None) are mixed as they are.  With sample weights, w_i
    takes the place of each share: the result has the loss that the two rows would have had,
    weighted, wherever that loss is linear in t.
    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """

    def __init__(
        self, alpha: float, n_classes: int | None, *, rng: np.random.Generator | int
    ) -> None:
        require("alpha", alpha, 0 < alpha < math.inf, "positive")
        self.alpha, self.n_classes = alpha, n_classes
        self._stream = _streams(np.random.default_rng(rng))

    def __call__(self, batch: Rows, step: int) -> Rows:
        """Return the mixed batch; X must be the model's inputs, the last thing before the step."""
        share = float(self._stream(step).beta(self.alpha, self.alpha))
        X, y, weight = batch
        if self.n_classes is not None and y.ndim == 1:
            y = np.eye(self.n_classes, dtype=X.dtype)[y]
        if weight is None:
            return Rows(_mix(X, share), _mix(y, share))
        mixed = _mix(weight, share)
        of_each = (share * weight / np.where(mixed > 0, mixed, 1)).astype(X.dtype)
        of_each = of_each.reshape(-1, *[1] * (y.ndim - 1))
        return Rows(_mix(X, share), y * of_each + y[::-1] * (1 - of_each), mixed)


@dataclass(frozen=True)
class ShiftedViews:
    """Test-time augmentation: images as they are, and moved by up to `pixels` in y and in x.

    Called with rows, (n, height * width * channels), it yields (2 * pixels + 1)**2 arrays of their
    shape; what comes in from outside is 0. The mean of a model's outputs over them is its answer.
    """

    image_shape: ImageShape
    pixels: int = 1

    def __post_init__(self) -> None:
        largest = min(*self.image_shape[:2], MOST_VIEW_PIXELS + 1) - 1
        require("pixels", self.pixels, 1 <= self.pixels <= largest, f"in 1 to {largest}")

    def __call__(self, X: Array) -> Iterator[Array]:
        """Yield the moved rows."""
        images = X.reshape(len(X), *self.image_shape)
        moves = range(-self.pixels, self.pixels + 1)
        for dy, dx in itertools.product(moves, moves):
            yield _move(images, dy, dx, out=np.zeros_like(images)).reshape(X.shape)


def _changed(
    change: Change, shape: ImageShape, stream: Stream, X: Array, step: int, first_row: int
) -> Array:
    return change.apply(X.reshape(len(X), *shape), stream(step), first_row).reshape(X.shape)


def _streams(rng: np.random.Generator) -> Stream:
    """From a position to its own stream of random numbers, under a key drawn from `rng`."""
    key = rng.integers(2**64, size=2, dtype=np.uint64)

    def at(position: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, position]))

    return at


def _move(images: Array, dy: int, dx: int, *, out: Array) -> Array:
    """Write images, (n, height, width, channels), into `out`, moved by (dy, dx); the rest stays."""
    height, width = images.shape[1:3]
    if abs(dy) < height and abs(dx) < width:
        out[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = images[
            :, max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
        ]
    return out


def _mix(x: Array, share: float) -> Array:
    return np.asarray(share * x + (1 - share) * x[::-1])
