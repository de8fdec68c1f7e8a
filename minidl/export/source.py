"""A model as source text: one C99 file that needs math.h only, one Python file that needs NumPy."""

import base64
from collections import Counter, defaultdict
from string import Template
from typing import Any

import numpy as np

from minidl.export.graph import NUMPY, OPERATIONS, Value, named, written
from minidl.export.lowering import columns_of
from minidl.kernels import Array
from minidl.predictor import Predictor

KINDS = {"float64": "double", "float32": "float"}  # all others are int

_C_LABEL = """
/* The place of the most likely class. */
int minidl_label(const double *y)
{
    int i, best = 0;
    for (i = 1; i < minidl_N_OUTPUTS; i++) if (y[i] > y[best]) best = i;
    return best;
}
"""
_C_FILE = Template("""\
/* A trained model, written by minidl: C99, no allocation, no library but math.h.

   x: $n_features raw features: numbers, categories as the places of their labels, dates as seconds
   from 1970 in UTC, NAN for gaps.  y: $width $meaning.
   The buffers are static: one call at a time.  With -DMINIDL_TEST the file has a main that
   prints what it predicts for $n_rows rows, and answers 0 where all agree with the model. */

#include <math.h>

enum { minidl_N_FEATURES = $n_features, minidl_N_OUTPUTS = $width };

$declared

void minidl_predict(const double *x, double *y)
{
    int i, j = 0;
    $statements
    for (i = 0; i < $width; i++) y[i] = $result[i];
    (void)j;
}

$texts
#ifdef MINIDL_TEST
#include <stdio.h>

$vectors

int main(void)
{
    double y[minidl_N_OUTPUTS];
    int i, j, wrong = 0;
    for (i = 0; i < $n_rows; i++) {
        minidl_predict(rows + i * minidl_N_FEATURES, y);
        for (j = 0; j < minidl_N_OUTPUTS; j++) {
            printf("%.17g\\n", y[j]);
            wrong += !(fabs(y[j] - expected[i * minidl_N_OUTPUTS + j]) <= allowed[i]);
        }
    }
    return wrong != 0;
}
#endif
""")


def c_source(
    predictor: Predictor, output: Value, rows: Array, expected: Array, allowed: Array
) -> str:
    """Return the text of the file.

    rows, expected: test vectors.  allowed: the difference that is allowed in each row, (n_rows,).
    """
    names, constants = named(output, _number)
    uses = Counter(each for value in names for each in value.inputs)
    free: dict[tuple[int, str], list[str]] = defaultdict(list)  # buffers that nothing needs
    declared = {name: _array(name, array) for name, array in constants.items()}
    statements = []
    for value, name in names.items():
        if value.op == "constant":
            continue
        kind, alike = KINDS.get(value.dtype, "int"), (value.width, value.dtype)
        if free[alike]:
            names[value] = free[alike].pop()
        else:
            declared[name] = f"{kind} {name}[{value.width}];"
        statements.append(_statement(value, names, kind))
        for each in dict.fromkeys(value.inputs):  # a set has no order that repeats
            uses[each] -= value.inputs.count(each)
            if uses[each] == 0 and each.op != "constant":
                free[each.width, each.dtype].append(names[each])
    columns, classes = columns_of(predictor), predictor.classes
    texts = {f"labels_{j}": list(c.labels) for j, c in enumerate(columns) if c.labels}
    if predictor.feature_names is not None:
        texts["columns"] = [column.name for column in columns]
    if classes is not None:
        texts["classes"] = [str(label) for label in classes]
    tests = {"rows": rows, "expected": expected, "allowed": allowed}
    declared_texts = [_texts(name, labels) for name, labels in texts.items()]
    return _C_FILE.substitute(
        n_features=predictor.n_features,
        width=output.width,
        meaning="predicted values" if classes is None else "probabilities of the classes",
        n_rows=len(rows),
        declared="\n".join(f"static {text}" for text in declared.values()),
        statements="\n    ".join(statements),
        result=names[output],
        texts="\n".join([*declared_texts, "" if classes is None else _C_LABEL]),
        vectors="\n".join(f"static {_array(*test)}" for test in tests.items()),
    )


def _statement(value: Value, names: dict[Value, str], kind: str) -> str:
    op, y, n = value.op, names[value], value.width
    given = [names[each] for each in value.inputs]
    expression, loop = OPERATIONS[op][0], f"for (i = 0; i < {n}; i++)"
    if op == "concat":
        start, parts = 0, []
        for name, each in zip(given, value.inputs, strict=True):
            parts.append(f"for (i = 0; i < {each.width}; i++) {y}[{start} + i] = {name}[i];")
            start += each.width
        return "\n    ".join(parts)
    if op in ("max", "matmul"):
        start_at = f"{given[0]}[0]" if op == "max" else "0"
        step = expression.format(*given, n=n)
        over = f"for (j = 0; j < {value.inputs[0].width}; j++)"
        return f"{loop} {{ double s = {start_at}; {over} s = {step}; {y}[i] = ({kind})s; }}"
    if op not in ("take", "lookup"):  # a number, column i, or the only column
        given = [
            name
            if each.op == "constant" and not each.array.ndim
            else f"{name}[{'i' if each.width > 1 else 0}]"
            for name, each in zip(given, value.inputs, strict=True)
        ]
    return f"{loop} {y}[i] = ({kind})({expression.format(*given)});"


def _array(name: str, array: Array) -> str:
    kind = KINDS.get(array.dtype.name, "int")
    numbers = [_number(n) for n in np.ravel(array)]
    lines = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
    return f"const {kind} {name}[] = {{\n{f',{chr(10)}'.join(lines)}}};"


def _number(n: Any) -> str:
    """A number as C writes it, so that it is read back as it is."""
    if n != n:
        return "NAN"
    return f"{n!s}f" if isinstance(n, np.float32) else str(n)


def _texts(name: str, texts: list[str]) -> str:
    """An array of texts; what is not plain ASCII becomes the octal codes of its UTF-8."""

    def literal(text: str) -> str:
        plain = (
            chr(b) if 32 <= b < 127 and b not in b'"\\\\?' else f"\\{b:03o}" for b in text.encode()
        )
        return f'"{"".join(plain)}"'

    return f"const char *const minidl_{name}[] = {{{', '.join(map(literal, texts))}}};"


_PYTHON_FILE = Template('''"""A trained model, written by minidl. Needs NumPy only.

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
    return _PYTHON_FILE.substitute(
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
