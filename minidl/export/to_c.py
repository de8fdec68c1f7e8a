"""One C99 file: no allocation, no library but math.h, the weights and test vectors inside."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from minidl.export.graph import Value, in_order
from minidl.kernels import Array
from minidl.predictor import Predictor

_HEAD = """/* A trained model, written by minidl: C99, no allocation, no library but math.h.

   x: {n_features} raw features.  y: {width} numbers, {meaning}.
   The buffers are static: one call at a time.  With -DMINIDL_TEST the file has a main that checks
   itself on {n_rows} rows, and answers 0 where all agree. */

#include <math.h>

enum {{ {name}_N_FEATURES = {n_features}, {name}_N_OUTPUTS = {width} }};
"""

_LABEL = """
/* The place of the most likely class. */
int {name}_label(const double *y)
{{
    int i, best = 0;
    for (i = 1; i < {name}_N_OUTPUTS; i++)
        if (y[i] > y[best]) best = i;
    return best;
}}
"""

_INTERPOLATE = """
static double interpolate(double x, const double *knots, const double *values, int n)
{
    int low = 0, high = n, middle, first;
    while (low < high) { /* the number of knots below x */
        middle = (low + high) / 2;
        if (knots[middle] < x) low = middle + 1; else high = middle;
    }
    first = low;
    while (low < n && knots[low] == x) low++;
    if (low > first) return (values[first] + values[low - 1]) / 2;
    if (low == 0) return values[0];
    if (low == n) return values[n - 1];
    return values[low - 1] + (values[low] - values[low - 1]) * (x - knots[low - 1])
        / (knots[low] - knots[low - 1]);
}
"""

_MAIN = """
#if defined(MINIDL_TEST) || defined(MINIDL_PRINT)
#include <stdio.h>

static const double rows[] = {rows};
static const double expected[] = {expected};

int main(void)
{{
    double y[{name}_N_OUTPUTS], largest = 0, difference = 0;
    int i, j;
    for (i = 0; i < {n_rows}; i++) {{
        {name}_predict(rows + i * {name}_N_FEATURES, y);
#ifdef MINIDL_PRINT
        for (j = 0; j < {name}_N_OUTPUTS; j++) printf("%.17g\\n", y[j]);
#endif
        for (j = 0; j < {name}_N_OUTPUTS; j++) {{
            largest = fmax(largest, fabs(expected[i * {name}_N_OUTPUTS + j]));
            difference = fmax(difference, fabs(y[j] - expected[i * {name}_N_OUTPUTS + j]));
        }}
    }}
#ifndef MINIDL_PRINT
    printf("largest difference %g of %g\\n", difference, largest);
#else
    return 0;
#endif
    return !(difference <= 1e-5 * largest);
}}
#endif
"""

_BINARY = {"add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}",
           "maximum": "fmax({0}, {1})", "minimum": "fmin({0}, {1})", "equal": "{0} == {1}",
           "where": "{0} != 0 ? {1} : {2}", "isnan": "isnan({0}) ? 1 : 0", "abs": "fabs({0})",
           "cast": "{0}", "input": "x[i]"}  # fmt: skip


def c_source(
    predictor: Predictor, output: Value, rows: Array, expected: Array, name: str = "minidl"
) -> str:
    """Return the text of the file.  rows, expected: test vectors."""
    writer = _Writer(in_order(output))
    body = "".join(writer.statements())
    result = writer.names[output]
    classes = predictor.classes
    text = _HEAD.format(
        name=name,
        n_features=predictor.n_features,
        width=output.width,
        n_rows=len(rows),
        meaning="predicted values" if classes is None else "probabilities of the classes",
    )
    if any(value.op == "interpolate" for value in writer.values):
        text += _INTERPOLATE
    text += "".join(writer.declarations)
    text += (
        f"\nvoid {name}_predict(const double *x, double *y)\n{{\n    int i, j = 0;\n{body}"
        f"    for (i = 0; i < {output.width}; i++) y[i] = {result}[i];\n    (void)j;\n}}\n"
    )
    if classes is not None:
        labels = ", ".join(json.dumps(str(label)) for label in classes)
        text += f"\nconst char *const {name}_classes[] = {{{labels}}};\n" + _LABEL.format(name=name)
    return text + _MAIN.format(
        name=name,
        n_rows=len(rows),
        rows=_numbers(rows, "double"),
        expected=_numbers(expected, "double"),
    )


class _Writer:
    """The statements of the function, and the arrays they need.

    A buffer is used again once nothing needs what it holds.
    """

    def __init__(self, values: list[Value]) -> None:
        self.values = values
        self.declarations: list[str] = []
        self.names: dict[Value, str] = {}
        self._stored: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no identity is used twice
        self._free: list[tuple[str, int, str]] = []
        self._uses = Counter(each for value in values for each in value.inputs)

    def statements(self) -> Any:
        """Yield one statement for each value."""
        held: dict[Value, tuple[str, int, str]] = {}
        for value in self.values:
            if value.op == "constant":
                kind = "double" if value.wide else "float"
                store = self._constant if np.ndim(value.array) else _numbers
                self.names[value] = store(value.array, kind)
                continue
            held[value] = self._buffer(value)
            self.names[value] = held[value][0]
            yield f"    {self._statement(value)}\n"
            for each in set(value.inputs):
                self._uses[each] -= value.inputs.count(each)
                if self._uses[each] == 0 and each in held:
                    self._free.append(held[each])

    def _buffer(self, value: Value) -> tuple[str, int, str]:
        kind = "double" if value.wide else "float"
        fitting = [b for b in self._free if b[1] >= value.width and b[2] == kind]
        if fitting:
            chosen = min(fitting, key=lambda buffer: buffer[1])
            self._free.remove(chosen)
            return chosen
        made = (f"b{len(self.declarations)}", value.width, kind)
        self.declarations.append(f"static {kind} {made[0]}[{made[1]}];\n")
        return made

    def _constant(self, array: Any, kind: str) -> str:
        if id(array) not in self._stored:
            self._kept.append(array)
            name = self._stored[id(array)] = f"c{len(self.declarations)}"
            self.declarations.append(
                f"static const {kind} {name}[{array.size}] = {_numbers(array, kind)};\n"
            )
        return self._stored[id(array)]

    def _entry(self, value: Value) -> str:
        name = self.names[value]
        if value.op == "constant" and not np.ndim(value.array):
            return name
        return f"{name}[i]" if value.width > 1 else f"{name}[0]"

    def _statement(self, value: Value) -> str:
        op, y, n = value.op, self.names[value], value.width
        kind = "double" if value.wide else "float"
        loop = f"for (i = 0; i < {n}; i++)"
        first = self.names[value.inputs[0]] if value.inputs else "x"
        m = value.inputs[0].width if value.inputs else n
        array, table = value.array, value.table
        if op == "matmul":
            W = self._constant(array, kind)
            return (
                f"{loop} {{ double sum = 0; for (j = 0; j < {m}; j++) "
                f"sum += (double){first}[j] * {W}[j * {n} + i]; {y}[i] = ({kind})sum; }}"
            )
        if op in ("mean", "sum"):
            share = f" / {m}" if op == "mean" else ""
            return (
                f"{{ double sum = 0; for (j = 0; j < {m}; j++) sum += {first}[j]; "
                f"{y}[0] = ({kind})(sum{share}); }}"
            )
        if op == "max":
            return (
                f"{y}[0] = {first}[0]; for (j = 1; j < {m}; j++) "
                f"if ({first}[j] > {y}[0]) {y}[0] = {first}[j];"
            )
        if op == "take":
            columns = self._constant(array, "int")
            return f"{loop} {y}[i] = {columns}[i] < 0 ? 0 : {first}[{columns}[i]];"
        if op == "concat":
            parts, start = [], 0
            for each in value.inputs:
                entry = self._entry(each)
                parts.append(f"for (i = 0; i < {each.width}; i++) {y}[{start} + i] = {entry};")
                start += each.width
            return "\n    ".join(parts)
        if op == "interpolate":
            # The knots of each column stand after those of the one before.
            knots, values = (
                self._constant(np.transpose(array), "double"),
                self._constant(table, "double"),
            )
            n_knots = len(table)
            call = f"interpolate({first}[i], {knots} + i * {n_knots}, {values}, {n_knots})"
            return f"{loop} {y}[i] = {call};"
        entries = [self._entry(each) for each in value.inputs]
        expression = _BINARY.get(op, op + "({0})").format(*entries)
        return f"{loop} {y}[i] = ({kind})({expression});"


def _numbers(array: Any, kind: str) -> str:
    """Numbers as C writes them, so that each is read back as it is."""
    flat = np.ravel(array)
    if kind == "int":
        texts = [str(int(n)) for n in flat]
    elif kind == "float":
        texts = [f"{np.float32(n)!s}f" for n in flat]
    else:
        texts = [_double(float(n)) for n in flat]
    if not np.ndim(array):
        return texts[0]
    lines = [", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8)]
    return "{\n" + ",\n".join(lines) + "}"


def _double(n: float) -> str:
    return "NAN" if n != n else repr(n)
