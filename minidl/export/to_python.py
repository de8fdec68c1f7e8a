"""A Python file that needs NumPy only, the weights inside."""

from __future__ import annotations

import base64
from string import Template
from typing import Any

import numpy as np

from minidl.export.graph import NUMPY, Value, named, written
from minidl.export.lowering import columns_of
from minidl.predictor import Predictor

_FILE = Template('''"""A trained model, written by minidl. Needs NumPy only.

predict(X) and $what(X) take raw rows, (n_samples, $n_features): numbers, categories as the
places of their labels in COLUMNS, dates as seconds from 1970 in UTC, and NaN for gaps.
"""

import base64
import math

import numpy as np


def _array(dtype, shape, text):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def _erf(x):
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


$constants


def $what(X):
    """Return (n_samples, $width) numbers for raw rows."""
    with np.errstate(all="ignore"):
        return np.vstack([_block(X[i : i + 1000]) for i in range(0, max(1, len(X)), 1000)])


def _block(X):
    $lines
    return $result


def predict(X):
    """Return the most likely classes, 0 or 1 for each label, or the predicted values."""
    y = $what(X)
    return $decided


if __name__ == "__main__":  # rows of numbers from standard input, separated by commas
    import sys

    rows = np.loadtxt(sys.stdin, delimiter=",", ndmin=2)
    np.savetxt(sys.stdout, $what(rows), delimiter=",", fmt="%.17g")
''')


def python_module(predictor: Predictor, output: Value) -> str:
    """Return the text of the file."""
    names, arrays = named(output, lambda number: repr(float(number)))
    constants = {name: _literal(array) for name, array in arrays.items()}
    lines = []
    for value, name in names.items():
        if value.op != "constant":
            lines.append(f"{name} = {written(value, names, NUMPY, dtype=value.dtype)}")
    classes, columns = predictor.classes, columns_of(predictor)
    decided = "y[:, 0] if y.shape[1] == 1 else y"
    if predictor.feature_names or any(column.labels for column in columns):
        labels = {column.name: list(column.labels) for column in columns}
        constants["COLUMNS"] = f"{labels!a}  # name -> labels"
    if classes is not None:
        several = predictor.has_several_labels
        decided = "(y > 0.5).astype(np.int64)" if several else "CLASSES[np.argmax(y, axis=1)]"
        shown = [str(c) if isinstance(c, np.datetime64) else c for c in classes]
        constants["CLASSES"] = f"np.array({shown!a})"
    return _FILE.substitute(
        what="predict_values" if classes is None else "predict_proba",
        n_features=predictor.n_features,
        constants="\n".join(f"{name} = {text}" for name, text in constants.items()),
        width=output.width,
        lines="\n    ".join(lines),
        result=names[output],
        decided=decided,
    )


def _literal(array: Any) -> str:
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = base64.b64encode(stored.tobytes()).decode()
    return f'_array("{stored.dtype.str}", {array.shape}, "{text}")'
