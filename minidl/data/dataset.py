"""A data set: arrays and what is known about them; made of what scikit-learn's functions return."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.data.disk import DiskRows
from minidl.data.schema import Schema
from minidl.data.tables import Table, table_of
from minidl.errors import DataError

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Arrays and what is known about them.

    X, X_test: (n_samples, n_features), uint8 for pixels kept as bytes, float32 for a large table of
    whole numbers, else float64; or SciPy CSR.
    y, y_test: (n_samples,) int64 class numbers 0..n_classes-1; (n_samples, n_classes) uint8, 1 for
    each of the labels that a row has; or float64 targets, (n_samples,) or (n_samples, n_targets).
    The test arrays are None where the source has no test part of its own.
    classes: the labels in the order of the class numbers, None for a regression.
    schema: what the columns mean of X from a table, in which NaN stands for a missing value and a
    category is the code of its label; None where all are numbers and none may be missing.  It
    gives the feature_names.
    image_shape: (height, width, channels) where a row is an image, else None.
    path: the local file that the arrays were read from, absolute; None where there is none.
    notes: what the person who trains should know, such as columns that were left out.
    """

    name: str
    X: Any
    y: np.ndarray
    X_test: Any = None
    y_test: np.ndarray | None = None
    classes: tuple[Any, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    path: str | None = None
    schema: Schema | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "feature_names", self.schema.names)

    @property
    def source(self) -> str:
        """What messages call it: the file, or the name where there is none."""
        return self.path or self.name

    @property
    def is_classification(self) -> bool:
        """Whether y holds class numbers."""
        return self.classes is not None

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for a regression."""
        return None if self.classes is None else len(self.classes)

    @property
    def categories(self) -> tuple[tuple[str, ...], ...] | None:
        """For each column of X its labels, or () where it is no category; None without a schema."""
        return None if self.schema is None else self.schema.labels

    @property
    def needs_encoding(self) -> bool:
        """Whether X holds what only some preprocessings take: categories, dates, missing values."""
        columns = () if self.schema is None else self.schema.used
        return any(column.kind != "number" or column.gaps > 0 for column in columns)

    @property
    def n_features(self) -> int:
        """Number of columns of X."""
        return int(self.X.shape[1])


def fingerprint(dataset: Dataset) -> str:
    """Two SHA-256 in hexadecimal, joined by a dot: of the arrays, and of what their numbers mean.

    The first covers names, dtypes, shapes and bytes of the arrays, the second the class labels, the
    categories and the names of the columns.  Checkpoints of older versions hold the first alone.
    """
    digest = hashlib.sha256()
    for name in ("X", "y", "X_test", "y_test"):
        value = getattr(dataset, name)
        if isinstance(value, DiskRows):
            digest.update(f"{name} {value.fingerprint()}\n".encode())
            continue
        if value is None:
            continue
        parts = {name: value}
        if not isinstance(value, np.ndarray):
            parts = {f"{name}.{p}": getattr(value, p) for p in ("data", "indices", "indptr")}
        for part, array in parts.items():
            digest.update(f"{part} {array.dtype.str} {array.shape} {value.shape}\n".encode())
            for start in range(0, len(array), ROWS_AT_ONCE):  # a transposed array is copied
                rows = array[start : start + ROWS_AT_ONCE]
                digest.update(np.ascontiguousarray(rows).data)
    meaning = [dataset.classes, dataset.categories, dataset.feature_names]
    text = json.dumps(meaning, default=str).encode()
    return f"{digest.hexdigest()}.{hashlib.sha256(text).hexdigest()}"


def dataset_of(name: str, found: Mapping[str, Any] | tuple[Any, Any]) -> Dataset:
    """Return the data set of (X, y), or of what scikit-learn gives: a Bunch.

    Texts and whole numbers in y are classes, several columns of whole numbers are labels of which a
    row may have several; other numbers are a regression's.  A table with texts has a schema.
    """
    if isinstance(found, tuple):
        found = {"data": found[0], "target": found[1]}
    X, y, schema, labels = found["data"], found["target"], None, None
    features, names = (_names(found.get(key)) for key in ("feature_names", "target_names"))
    if hasattr(X, "tocsr"):
        from scipy.sparse import csr_matrix

        X = csr_matrix(X)
    elif X.dtype == object:
        table = table_of([[_text(cell) for cell in row] for row in X])
        columns = features or [f"column_{j + 1}" for j in range(X.shape[1])]
        named = dict(zip(columns, table.columns.values(), strict=True))
        table = Table(named, table.n_rows, positional=True)
        schema = Schema.infer(table)
        X = schema.encode(table)
    elif isinstance(X, np.ndarray):
        X = np.ascontiguousarray(X)
    if X.dtype not in (np.float32, np.uint8):
        X = X.astype(np.float64)
    y = y.toarray().astype(np.uint8) if hasattr(y, "tocsr") else np.asarray(y)
    if y.dtype == object:
        y = np.array([_text(cell) for cell in y.flat]).reshape(y.shape)
    if y.ndim == 2 and y.dtype.kind in "iub":
        labels, y = names or tuple(range(y.shape[1])), y.astype(np.uint8)
    elif y.dtype.kind in "iubU":
        if y.ndim != 1:
            raise DataError(f"{name}: has several class targets; name one with data.target")
        different, y = np.unique(y, return_inverse=True)
        labels, y = tuple(different.tolist()), y.astype(np.int64)
        if names is not None and np.array_equal(different, np.arange(len(names))):
            labels = names
    else:
        y = y.astype(np.float64)
    shape = None
    if (images := found.get("images")) is not None:
        shape = (*images.shape[1:], 1)[:3]
    return Dataset(
        name, X, y, classes=labels, feature_names=features, image_shape=shape, schema=schema
    )


def _names(given: Any) -> tuple[Any, ...] | None:
    """Names as texts, or as whole numbers, such as the classes of digits."""
    if given is None:
        return None
    array = np.asarray(given)
    return tuple(array.tolist() if array.dtype.kind in "iu" else map(str, given))


def _text(cell: Any) -> Any:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
