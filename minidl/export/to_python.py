"""A Python file that needs NumPy only, the weights inside."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from minidl.export.graph import ELEMENTWISE, REDUCTIONS, Value, in_order
from minidl.predictor import Predictor

_HEAD = '''"""A trained model, written by minidl. Needs NumPy only.

predict(X) and {what}(X) take raw rows, (n_samples, {n_features}).{names}
"""

import base64
import math

import numpy as np


def _array(dtype, shape, text):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def _erfc(x):
    return np.frompyfunc(math.erfc, 1, 1)(x).astype(x.dtype)


def _interpolate(x, knots, values):
    y = np.empty_like(x)
    for j in range(x.shape[1]):
        right = np.interp(x[:, j], knots[:, j], values)
        left = -np.interp(-x[:, j], -knots[::-1, j], -values[::-1])
        y[:, j] = (left + right) / 2
    return y


def _take(x, columns):
    y = x[:, columns]
    y[:, columns < 0] = 0
    return y


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

_CALLS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "equal": "=="}


def python_module(predictor: Predictor, output: Value, *, several: bool) -> str:
    """Return the text of the file.  several: whether a row may have several labels."""
    constants: list[str] = []
    lines: list[str] = []
    names: dict[Value, str] = {}
    stored: dict[int, str] = {}

    def constant(array: Any, dtype: Any) -> str:
        if id(array) not in stored:
            stored[id(array)] = f"C{len(constants)}"
            constants.append(f"C{len(constants)} = {_literal(np.asarray(array, dtype))}\n")
        return stored[id(array)]

    for i, value in enumerate(in_order(output)):
        dtype = np.float64 if value.wide else np.float32
        if value.op == "constant":
            names[value] = constant(value.array, dtype)
            continue
        given = [names[each] for each in value.inputs]
        names[value] = f"v{i}"
        lines.append(f"        v{i} = {_expression(value, given, constant, dtype)}\n")
    what = "predict_values" if predictor.classes is None else "predict_proba"
    known = ", ".join(map(repr, predictor.feature_names or ()))
    head = _HEAD.format(
        what=what,
        n_features=predictor.n_features,
        names=f"\nColumns: {known!a}." if known else "",
    )
    body = (
        f'def {what}(X):\n    """Return (n_samples, {output.width}) numbers for raw rows."""\n'
        f'    with np.errstate(all="ignore"):\n{"".join(lines)}        return {names[output]}\n'
    )
    kind = "regression" if predictor.classes is None else "labels" if several else "classes"
    if kind == "classes":
        labels = [str(c) if isinstance(c, np.datetime64) else c for c in predictor.classes]
        constants.append(f"CLASSES = np.array({labels!a})\n")
    return f"{head}{''.join(constants)}\n\n{body}{_TAIL[kind]}{_MAIN.format(what=what)}"


def _expression(value: Value, given: list[str], constant: Any, dtype: Any) -> str:
    op, kind = value.op, np.dtype(dtype).name
    if op == "input":
        return "np.asarray(X, np.float64)"
    if op == "cast":
        return f"{given[0]}.astype(np.{kind})"
    if op == "matmul":
        return f"{given[0]} @ {constant(value.array, dtype)}"
    if op == "take":
        return f"_take({given[0]}, {constant(value.array, np.int64)})"
    if op == "concat":
        return f"np.hstack([{', '.join(given)}])"
    if op == "where":
        return f"np.where({given[0]} != 0, {given[1]}, {given[2]})"
    if op == "interpolate":
        tables = (constant(value.array, dtype), constant(value.table, dtype))
        return f"_interpolate({given[0]}, {tables[0]}, {tables[1]})"
    if op == "erfc":
        return f"_erfc({given[0]})"
    if op in REDUCTIONS:
        return f"{given[0]}.{op}(axis=1, keepdims=True)"
    if op in _CALLS:
        result = f"{given[0]} {_CALLS[op]} {given[1]}"
        return f"({result}).astype(np.{kind})" if op == "equal" else result
    call = f"np.{op}({', '.join(given)})"
    return call if op in ELEMENTWISE or op != "isnan" else f"{call}.astype(np.{kind})"


def _literal(array: Any) -> str:
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = base64.b64encode(stored.tobytes()).decode()
    return f'_array("{stored.dtype.str}", {array.shape}, "{text}")'
