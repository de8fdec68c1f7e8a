"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, wherever this machine has them.

LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998.
"""

import os
import warnings
from pathlib import Path

import numpy as np

from minidl.archive import read_arrays, write_archive
from minidl.data import downloads
from minidl.data.dataset import Dataset
from minidl.data.formats import open_data
from minidl.errors import CheckpointError, DataError

N_TRAIN = 60_000  # of the 70,000 rows of OpenML's table; the rest is the test part
NAMES = ("x_train", "y_train", "x_test", "y_test")
ADVICE = (
    "set data.path to a mnist.npz with the arrays x_train, y_train, x_test, y_test, "
    "or MINIDL_DATA_DIR to its folder"
)


def mnist(*, path: str | None = None) -> Dataset:
    """60,000 training and 10,000 test images of handwritten digits, 784 pixels as bytes.

    Looks at `path`, and nowhere else if it is given; at $MINIDL_DATA_DIR/mnist.npz; in the user's
    cache folder; then asks OpenML, and keeps the answer in the cache.  Raises DataError, also for
    a file that is there but cannot be used: to pass over it would train on other data than meant.
    """
    cache, tried = _cache_folder(), []
    if path is not None:
        files = [Path(os.path.expanduser(path))]
    else:
        folder = os.environ.get("MINIDL_DATA_DIR")
        tried += [] if folder else ["$MINIDL_DATA_DIR (not set)"]
        files = [Path(place, "mnist.npz") for place in (folder, cache) if place]
    for file in files:
        try:
            open_data(file).close()
        except DataError as error:
            if path is not None:
                raise DataError(f"mnist: {error}; {ADVICE}") from error
            problem = str(error).removeprefix(f"{file}: ")
            tried.append(f"{file} ({problem})")
        else:
            return _read(file)
    try:
        table = downloads.openml("mnist_784")
        given, y = table["data"], table["target"].astype(np.int64)
        with np.errstate(invalid="ignore"):
            x = given.astype(np.uint8)
        if x.shape[1:] != (784,) or len(x) <= N_TRAIN or not np.array_equal(x, given):
            raise DataError(f"openml mnist_784: unexpected contents, {x.shape} {given.dtype}")
    except DataError as error:
        tried.append(f"{error}")
        raise DataError(f"mnist was not found: tried {', '.join(tried)}; {ADVICE}") from error
    parts = x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:]
    arrays, kept = dict(zip(NAMES, parts, strict=True)), None
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            about = {"source": "OpenML mnist_784"}
            write_archive(cache / "mnist.npz", arrays, about, kind="mnist", version=1)
            kept = cache / "mnist.npz"
        except (OSError, CheckpointError) as error:
            warnings.warn(f"mnist is not kept for the next time: {error}", stacklevel=2)
    return _dataset(arrays, kept)


def _dataset(arrays: dict[str, np.ndarray], file: Path | None) -> Dataset:
    x, y, x_test, y_test = (arrays[name] for name in NAMES)
    path, classes = None if file is None else os.path.abspath(file), tuple(range(10))
    shape = 28, 28, 1
    return Dataset("mnist", x, y, x_test, y_test, classes, image_shape=shape, path=path)


def _cache_folder() -> Path | None:
    """The folder after the XDG specification; None for a user without a home folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():  # such a path is to be ignored
        root = Path(os.path.expanduser("~"), ".cache")
    return root / "minidl" if root.is_absolute() else None


def _read(file: Path) -> Dataset:
    try:
        arrays = read_arrays(file, names=NAMES, max_bytes=2**28)
    except CheckpointError as error:
        raise DataError(f"mnist: {error}; {ADVICE}") from error
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.shape[1:] not in ((28, 28), (784,)) or len(x) == 0:
            raise DataError(
                f"mnist: {file}: x_{part} must hold (n, 28, 28) uint8, got {x.shape} {x.dtype}"
            )
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1] or y.min() < 0 or y.max() > 9:
            raise DataError(f"mnist: {file}: y_{part} must hold {len(x)} integers from 0 to 9")
        arrays[f"x_{part}"] = x.reshape(len(x), 784)
        arrays[f"y_{part}"] = y.astype(np.int64)
    return _dataset(arrays, file)
