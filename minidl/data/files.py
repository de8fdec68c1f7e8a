"""From a file to a data set: tables, arrays in .npz and .npy, IDX images, and sparse rows."""

import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minidl.archive import read_arrays
from minidl.data.dataset import Dataset, dataset_of
from minidl.data.disk import DiskRows, npy_rows
from minidl.data.formats import FRAMES, SVMLIGHT, Format, open_data
from minidl.data.kinds import Tally
from minidl.data.readers import read_table
from minidl.data.schema import Schema
from minidl.data.tables import TableError
from minidl.data.targets import Task, leaks, target_of
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
IDX_START = re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x04]")  # type and dimensions
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def file(
    *,
    path: str,
    target: str | None = None,
    features: str | None = None,
    columns: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    missing: Sequence[str] = (),
    task: Task = "auto",
    drop_missing_target: bool = False,
    delimiter: str | None = None,
    decimal: Literal[".", ","] = ".",
    encoding: str = "utf-8",
    header: bool = True,
) -> Dataset:
    """The rows in a file: CSV, TSV, Parquet, Arrow, .npz, .npy, IDX images, svmlight; or gzipped.

    target: the column to predict; in .npz the name of an array, as `features` is of the inputs'.
    columns: what a column is, where the file does not tell: number, category, date, "date FORMAT"
    or ignore.  drop: columns to leave out.  missing: further texts that mark a gap.
    task auto: text, or up to 20 different whole numbers, are classes; else it is a regression.
    drop_missing_target: leave out rows without a target.
    delimiter, decimal, encoding, header: how a text file is written; by default a comma, or in .tsv
    a tab, divides cells, and the first line names the columns.
    """
    name = path.lower().removesuffix(".gz")
    if name.endswith(".npz"):
        data = _npz(path, features, target)
    elif name.endswith(".npy"):
        data = _npy(path, target)
    elif name.endswith(SVMLIGHT):
        data = _svmlight(path)
    elif not name.endswith(FRAMES) and _is_idx(path):
        data = _idx(path)
    elif not target:
        raise ParameterError(
            "target",
            "must name a column; names such as 2015, null, '#x' or 'a: b' stand in quotes: "
            'target: "#x"',
        )
    else:
        mark = delimiter or ("\t" if name.endswith((".tsv", ".tab")) else ",")
        form = Format(mark, encoding, header, decimal, tuple(missing))
        table = read_table(path, form, literal=(target,))
        found = target_of(table, target, task, form, drop_missing=drop_missing_target)
        if unknown := [each for each in drop if each not in table.columns]:
            raise ParameterError("drop", f"must name columns of the table, got {unknown[0]!r}")
        table = table.without([target, *drop])
        if len(found.rows) < table.n_rows:
            table = table.taken(found.rows)
        if not table.columns:
            raise TableError(f"{path}: holds nothing but the target {target!r}")
        kinds = {name: kind for name, kind in (columns or {}).items() if name not in drop}
        schema = Schema.infer(table, kinds, missing=form.missing, decimal=decimal)
        X = schema.encode(table, Tally())
        notes = (*found.notes, *schema.notes, *leaks(schema, X, found.y, found.classes))
        data = Dataset("csv", X, found.y, classes=found.classes, schema=schema, notes=notes)
    return replace(data, path=os.path.abspath(path))


def _npz(path: str, features: str | None, target: str | None) -> Dataset:
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


def _npy(path: str, target: str | None) -> Dataset:
    """Return the data set in a .npy file of rows; target: the number of a column, or the last.

    A target such as "y.npy" is a second file, in the same folder.
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
    return Dataset("file", X, y, classes=classes, schema=schema)


def _read_npy(path: str) -> np.ndarray:
    with open_data(path) as file:
        try:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    return found


def _is_idx(path: str) -> bool:
    """Whether a file, gzipped or not, begins as those of MNIST do."""
    with open_data(path) as file:
        return IDX_START.match(file.read(4)) is not None


def _idx(path: str) -> Dataset:
    """Return the images in an IDX file and their labels, found in a file beside it.

    The names differ in "images" and "labels", "idx3" and "idx1"; the test part, where it is there,
    has "t10k" or "test" for "train".
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
        parts += [_read_idx(images), _read_idx(labels)]
    return _of_arrays(path, *parts)


def _read_idx(path: str) -> Any:
    """Return the array in an IDX file; more than IN_MEMORY_BYTES, not gzipped, stay on the disk.

    LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998.
    """
    with open_data(path) as file:
        try:
            if not IDX_START.match(start := file.read(4)):
                raise DataError(f"{path}: is not an IDX file")
            shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
            dtype, offset = np.dtype(IDX_TYPES[start[2]]), file.tell()
            n_bytes = math.prod(shape) * dtype.itemsize
            is_whole = os.path.getsize(path) == offset + n_bytes  # and so not gzipped
            if dtype == np.uint8 and len(shape) > 1 and is_whole and n_bytes > IN_MEMORY_BYTES:
                return DiskRows(path, offset, shape, np.uint8)
            if n_bytes > (memory_bytes() or 2**34):
                raise DataError(f"{path}: claims {shape} values: more than there is memory")
            data = file.read(n_bytes + 1)
        except (OSError, struct.error) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    if len(data) != n_bytes:
        raise DataError(f"{path}: claims {shape} values and holds {len(data)} bytes")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _svmlight(path: str) -> Dataset:
    from sklearn.datasets import load_svmlight_file

    with open_data(path) as file:
        try:
            X, y = load_svmlight_file(file)
        except ValueError as error:
            raise DataError(f"{path}: is not in svmlight's format: {error}") from error
    return _of_arrays(path, X, y)


def _of_arrays(
    path: str, X: Any, y: Any, X_test: Any = None, y_test: np.ndarray | None = None
) -> Dataset:
    """Return the data set of arrays; X of 3 or 4 dimensions is images."""
    dims = X.row_shape if isinstance(X, DiskRows) else X.shape[1:]
    shape = (*dims, 1)[:3] if len(dims) in (2, 3) else None
    if shape and isinstance(X, np.ndarray):
        X = X.reshape(len(X), -1)
    if shape and isinstance(X_test, np.ndarray):
        X_test = X_test.reshape(len(X_test), -1)
    are_rows = X.ndim == 2 and X.dtype.kind in "biuf" and y.ndim in (1, 2)
    if not are_rows or X.shape[0] != len(y):
        raise DataError(
            f"{path}: features and target must be rows of numbers, got {X.shape} "
            f"{X.dtype} and {y.shape}"
        )
    n_rows, targets = len(y), y if y_test is None else np.concatenate([y, y_test])
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    few = targets.ndim == 1 and len(np.unique(targets)) <= 20
    if few and targets.dtype.kind == "f" and bool((targets == np.round(targets)).all()):
        targets = targets.astype(np.int64)
    elif targets.ndim == 1 and targets.dtype.kind in "iu" and not few and shape is None:
        targets = targets.astype(np.float64)  # a regression on whole numbers
    data = dataset_of("file", (X.astype(np.uint8) if X.dtype.kind == "b" else X, targets))
    parts = {}
    if X_test is not None and y_test is not None:
        of_kind = X_test if X_test.dtype == data.X.dtype else X_test.astype(data.X.dtype)
        parts = {"X_test": of_kind, "y_test": data.y[n_rows:]}
    return replace(data, y=data.y[:n_rows], image_shape=shape, **parts)


def _beside(path: str, name: str) -> str:
    """The file of that name in the same folder, gzipped or not."""
    file = os.path.join(os.path.dirname(path), name)
    other = file.removesuffix(".gz") if file.endswith(".gz") else file + ".gz"
    return file if os.path.exists(file) or not os.path.exists(other) else other
