"""A Python file that needs NumPy only, the weights inside."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from minidl.export.graph import OPERATIONS, Value, named
from minidl.export.lowering import columns_of, has_several_labels
from minidl.predictor import Predictor

_HEAD = '''"""A trained model, written by minidl. Needs NumPy only.

predict(X) and {what}(X) take raw rows, (n_samples, {n_features}): numbers, categories as the
places of their labels in COLUMNS, dates as seconds from 1970 in UTC, and NaN for gaps.
"""

import base64
import math

import numpy as np


def _array(dtype, shape, text):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def _erf(x):
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


'''

_FUNCTION = '''

def {what}(X):
    """Return (n_samples, {width}) numbers for raw rows."""
    with np.errstate(all="ignore"):
        return np.vstack([_block(X[i : i + 1000]) for i in range(0, max(1, len(X)), 1000)])


def _block(X):
{lines}    return {result}
'''

_TAIL = {
    "regression": '''

def predict(X):
    """Return the predicted values, (n_samples,) or (n_samples, n_outputs)."""
    y = predict_values(X)
    return y[:, 0] if y.shape[1] == 1 else y
''',
    "classes": '''

def predict(X):
    """Return the most likely class of each row."""
    return CLASSES[np.argmax(predict_proba(X), axis=1)]
''',
    "labels": '''

def predict(X):
    """Return 0 or 1 for each label, (n_samples, n_labels)."""
    return (predict_proba(X) > 0.5).astype(np.int64)
''',
}

_MAIN = """

if __name__ == "__main__":  # rows of numbers from standard input, separated by commas
    import sys

    rows = np.loadtxt(sys.stdin, delimiter=",", ndmin=2)
    np.savetxt(sys.stdout, {what}(rows), delimiter=",", fmt="%.17g")
"""


def python_module(predictor: Predictor, output: Value) -> str:
    """Return the text of the file."""
    names, arrays = named(output, lambda number: repr(float(number)))
    constants = {name: _literal(array) for name, array in arrays.items()}
    lines = []
    for value, name in names.items():
        if value.op == "constant":
            continue
        given = [names[each] for each in value.inputs]
        given = [", ".join(given)] if value.op == "concat" else given
        dtype = "float64" if value.wide else "float32"
        lines.append(f"    {name} = {OPERATIONS[value.op][1].format(*given, dtype=dtype)}\n")
    classes, several = predictor.classes, has_several_labels(predictor)
    if predictor.feature_names or any(column.labels for column in columns_of(predictor)):
        columns = {column.name: list(column.labels) for column in columns_of(predictor)}
        constants["COLUMNS"] = f"{columns!a}  # name -> labels"
    if classes is not None and not several:
        labels = [str(c) if isinstance(c, np.datetime64) else c for c in classes]
        constants["CLASSES"] = f"np.array({labels!a})"
    what = "predict_values" if classes is None else "predict_proba"
    return "".join(
        [
            _HEAD.format(what=what, n_features=predictor.n_features),
            *(f"{name} = {text}\n" for name, text in constants.items()),
            _FUNCTION.format(
                what=what, width=output.width, lines="".join(lines), result=names[output]
            ),
            _TAIL["regression" if classes is None else "labels" if several else "classes"],
            _MAIN.format(what=what),
        ]
    )


def _literal(array: Any) -> str:
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = base64.b64encode(stored.tobytes()).decode()
    return f'_array("{stored.dtype.str}", {array.shape}, "{text}")'
