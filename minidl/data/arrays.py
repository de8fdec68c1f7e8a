"""Data sets in files of arrays: .npz, .npy, IDX images, and svmlight."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from minidl.archive import read_arrays
from minidl.data.bunches import arrays_of, dataset_of
from minidl.data.dataset import Dataset
from minidl.data.disk import DiskRows, npy_rows
from minidl.data.schema import Schema
from minidl.data.textfiles import open_data
from minidl.errors import CheckpointError, DataError, ParameterError
from minidl.memory import memory_bytes

# Names under which the arrays of a data set are found in a .npz file, features before target.
PAIRS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("X", "y"),
    ("x", "y"),
    ("data", "target"),
    ("images", "labels"),
    ("features", "labels"),
)
MEANING = ".schema.json"  # the ending of a file beside a .npy file: what its columns mean
IN_MEMORY_BYTES = 1 << 30  # larger pairs of .npy files stay on the disk
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def is_idx(path: str) -> bool:
    """Whether a file, gzipped or not, begins as those of MNIST do."""
    with open_data(path) as file:
        start = file.read(4)
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in IDX_TYPES and 0 < start[3] < 5


def npz(path: str, features: str | None, target: str | None) -> Dataset:
    """Return the data set in a .npz file; features, target: names of its arrays, or None."""
    try:
        arrays = read_arrays(Path(path), max_bytes=memory_bytes() or 2**34)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    found = [names for names in PAIRS if set(names[:2]) <= set(arrays)]
    if features and target:
        found = [(features, target)]
    if not found:
        raise ParameterError(
            "features", f"and target must name arrays of {path}: {', '.join(arrays)}"
        )
    if missing := [name for name in found[0][:2] if name not in arrays]:
        raise DataError(f"{path}: has no array {missing[0]!r}; it has {', '.join(arrays)}")
    parts = [arrays[name] for name in found[0] if name in arrays]
    return _of_arrays(path, *parts[: 4 if len(parts) == 4 else 2])


def npy(path: str, target: str | None) -> Dataset:
    """Return the data set in a .npy file of rows; target: the number of a column, or the last.

    A target such as "y.npy" is a second file, in the same folder: the rows of the first one are
    then read from the disk as they are needed, where they take more than IN_MEMORY_BYTES.
    """
    if target is not None and target.endswith(".npy"):
        return _npy_pair(path, os.path.join(os.path.dirname(path), target))
    try:
        column = -1 if target is None else int(target)
    except ValueError:
        raise ParameterError("target", f"must be the number of a column, got {target!r}") from None
    table = _read_npy(path)
    if table.ndim != 2 or not -table.shape[1] <= column < table.shape[1] or table.shape[1] < 2:
        raise DataError(f"{path}: must hold rows with a column {column}, got {table.shape}")
    return _of_arrays(path, np.delete(table, column, axis=1), table[:, column])


def _npy_pair(path: str, target: str) -> Dataset:
    on_disk = os.path.getsize(path) > IN_MEMORY_BYTES
    X, y = npy_rows(path) if on_disk else _read_npy(path), _read_npy(target)
    if not os.path.exists(path + MEANING):
        return _of_arrays(path, X, y)
    try:
        document = Path(path + MEANING).read_bytes()
        schema = Schema.restore(np.frombuffer(document, np.uint8))
        classes = json.loads(document)["classes"]
        if X.shape != (len(y), len(schema.used)):
            raise ValueError(f"does not fit {path} of shape {X.shape} and {len(y)} targets")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}{MEANING}: {error}") from error
    classes = None if classes is None else tuple(classes)
    names = schema.names
    return _named(path, Dataset("file", X, y, classes=classes, feature_names=names, schema=schema))


def _read_npy(path: str) -> np.ndarray:
    with open_data(path) as file:
        try:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    return found


def idx(path: str) -> Dataset:
    """Return the images in an IDX file and their labels, found in a file beside it.

    The names differ in "images" and "labels", "idx3" and "idx1"; the test part, where it is there,
    has "t10k" or "test" for "train".
    Images that are not gzipped and take more than IN_MEMORY_BYTES are read from the disk as they
    are needed.
    """
    name = os.path.basename(path)
    if "images" not in name:
        raise DataError(f"{path}: name the file of the images, with 'images' in its name")
    tested = [name.replace("train", word) for word in ("t10k", "test")] if "train" in name else []
    files = [each for each in tested if os.path.exists(_beside(path, each))][:1]
    parts = []
    for each in (name, *files):
        images = _beside(path, each)
        labels = _beside(path, each.replace("images", "labels").replace("idx3", "idx1"))
        parts += [_images(images), read_idx(labels)]
    return _of_arrays(path, *parts)


def svmlight(path: str) -> Dataset:
    """Return the sparse rows in a file of svmlight's format."""
    from sklearn.datasets import load_svmlight_file

    with open_data(path) as file:
        try:
            X, y = load_svmlight_file(file)
        except ValueError as error:
            raise DataError(f"{path}: is not in svmlight's format: {error}") from error
    few = len(np.unique(y)) <= 20 and bool((y == np.round(y)).all())
    return _named(path, dataset_of("file", arrays_of((X, y)), classes=few))


def read_idx(path: str) -> np.ndarray:
    """Return the array in an IDX file.

    LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998.
    """
    with open_data(path) as file:
        shape, dtype = _idx_header(path, file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes > (memory_bytes() or 2**34):
            raise DataError(f"{path}: claims {shape} values: more than there is memory")
        try:
            data = file.read(n_bytes + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    if len(data) != n_bytes:
        raise DataError(f"{path}: claims {shape} values and holds {len(data)} bytes")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _images(path: str) -> Any:
    with open_data(path) as file:
        shape, dtype = _idx_header(path, file)
        offset = file.tell()
    is_whole = os.path.getsize(path) == offset + math.prod(shape)  # and so not gzipped
    if dtype == np.uint8 and len(shape) > 1 and is_whole and math.prod(shape) > IN_MEMORY_BYTES:
        return DiskRows(path, offset, shape, np.uint8)
    return read_idx(path)


def _idx_header(path: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
            raise DataError(f"{path}: is not an IDX file")
        shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
    except (OSError, struct.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return shape, np.dtype(IDX_TYPES[start[2]])


def _of_arrays(
    path: str, X: Any, y: Any, X_test: Any = None, y_test: np.ndarray | None = None
) -> Dataset:
    """Return the data set of arrays; X of 3 or 4 dimensions is images."""
    shape = None
    if y.ndim == 2 and y.shape[1] == 1:
        y, y_test = y[:, 0], None if y_test is None else y_test[:, 0]
    dims = X.row_shape if isinstance(X, DiskRows) else X.shape[1:]
    if len(dims) in (2, 3):
        shape = (*dims, 1)[:3]
        X, X_test = (
            each if each is None or isinstance(each, DiskRows) else each.reshape(len(each), -1)
            for each in (X, X_test)
        )
    if X.ndim != 2 or X.dtype.kind not in "biuf" or len(X) != len(y) or y.ndim not in (1, 2):
        raise DataError(
            f"{path}: features and target must be rows of numbers, got {X.shape} "
            f"{X.dtype} and {y.shape}"
        )
    everything: Any = y if y_test is None else np.concatenate([y, y_test])
    few = y.ndim == 1 and len(np.unique(everything)) <= 20
    if y.dtype.kind == "f" and few and bool((everything == np.round(everything)).all()):
        everything = everything.astype(np.int64)
    arrays = {"X": X.astype(np.uint8) if X.dtype.kind == "b" else X, "y": everything}
    if everything.ndim == 1 and everything.dtype.kind in "iu" and not few and shape is None:
        arrays["y"] = everything.astype(np.float64)  # a regression on whole numbers
    data = dataset_of("file", arrays)
    parts = {}
    if X_test is not None and y_test is not None:
        of_kind = X_test if X_test.dtype == data.X.dtype else X_test.astype(data.X.dtype)
        parts = {"X_test": of_kind, "y_test": data.y[len(y) :]}
    return _named(path, data, y=data.y[: len(y)], image_shape=shape, **parts)


def _named(path: str, data: Dataset, **changes: Any) -> Dataset:
    return replace(data, path=os.path.abspath(path), **changes)


def _beside(path: str, name: str) -> str:
    """The file of that name in the same folder, gzipped or not."""
    file = os.path.join(os.path.dirname(path), name)
    other = re.sub(r"\.gz$", "", file) if file.endswith(".gz") else file + ".gz"
    return file if os.path.exists(file) or not os.path.exists(other) else other
