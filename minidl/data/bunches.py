"""What scikit-learn's data set functions return, as arrays without objects, and as a `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.data.dataset import Dataset
from minidl.data.schema import Schema
from minidl.data.tables import Table, table_of
from minidl.errors import DataError


def arrays_of(found: Any) -> dict[str, np.ndarray]:
    """Return named arrays, which a file can hold, for a Bunch or a tuple (X, y, ...).

    X, or its CSR parts X_data, X_indices, X_indptr and X_shape; y; and where the source has them
    feature_names, target_names, image_shape, and for a table with text the schema.
    """
    if isinstance(found, tuple):
        found = {"data": found[0], "target": found[1]}
    X, y = found["data"], found["target"]
    arrays: dict[str, Any] = {}
    for name in ("feature_names", "target_names"):
        if (names := found.get(name)) is not None:
            whole = np.asarray(names).dtype.kind in "iu"
            arrays[name] = np.asarray(names if whole else list(map(str, names)))
    if hasattr(X, "tocsr"):
        X = X.tocsr()
        arrays |= {"X_data": X.data, "X_indices": X.indices, "X_indptr": X.indptr}
        arrays["X_shape"] = np.array(X.shape)
    elif X.dtype == object:
        table = table_of([[_text(cell) for cell in row] for row in X])
        names = arrays.get("feature_names", [f"column_{j + 1}" for j in range(X.shape[1])])
        columns = dict(zip(map(str, names), table.columns.values(), strict=True))
        table = Table(columns, table.n_rows, positional=True)
        schema = Schema.infer(table)
        arrays |= {"X": schema.encode(table), "schema": schema.state()}
    else:
        arrays["X"] = np.ascontiguousarray(X)
    y = y.toarray().astype(np.uint8) if hasattr(y, "tocsr") else np.asarray(y)
    if y.dtype == object:
        y = np.array([_text(cell) for cell in y.flat]).reshape(y.shape)
    arrays["y"] = y
    if (images := found.get("images")) is not None:
        arrays["image_shape"] = np.array([*images.shape[1:], 1][:3])
    return arrays


def dataset_of(name: str, arrays: Mapping[str, np.ndarray], *, classes: bool = False) -> Dataset:
    """Return the data set of what `arrays_of` gave.

    Texts and whole numbers in y are classes, several columns of whole numbers are labels of which a
    row may have several; other numbers are a regression's, unless `classes`.
    """
    X = arrays.get("X")
    if X is None:
        from scipy.sparse import csr_matrix

        parts = arrays["X_data"], arrays["X_indices"], arrays["X_indptr"]
        X = csr_matrix(parts, shape=tuple(arrays["X_shape"]))
    if X.dtype not in (np.float32, np.uint8):
        X = X.astype(np.float64)
    y, names, labels = arrays["y"], arrays.get("target_names"), None
    if y.ndim == 2 and y.dtype.kind in "iub":
        labels = tuple(range(y.shape[1]) if names is None else names.tolist())
        y = y.astype(np.uint8)
    elif y.dtype.kind in "iubU" or classes:
        if y.ndim != 1:
            raise DataError(f"{name}: has several class targets; name one with data.target")
        different, y = np.unique(y, return_inverse=True)
        if names is not None and np.array_equal(different, np.arange(len(names))):
            different = names
        elif different.dtype.kind == "f":
            different = different.astype(np.int64)
        labels, y = tuple(different.tolist()), y.astype(np.int64)
    else:
        y = y.astype(np.float64)
    schema = Schema.restore(arrays["schema"]) if "schema" in arrays else None
    features = arrays.get("feature_names") if schema is None else np.array(schema.names)
    shape = arrays.get("image_shape")
    return Dataset(
        name,
        X,
        y,
        classes=labels,
        feature_names=None if features is None else tuple(features.tolist()),
        image_shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
        schema=schema,
    )


def _text(cell: Any) -> Any:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
