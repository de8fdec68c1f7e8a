"""A trained model as a graph of some twenty operations on arrays, for every format alike.

Values are arrays (n_rows, width), or constants: (width,) arrays, numbers and tables. Preprocessing
is computed in float64 ("wide"), the layers of a float32 model in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.kernels import Array

# Each operation in C, for column i of the result, in NumPy and in ONNX.  {0}, {1}: the inputs.
# s: the sum or maximum so far, over j.
OPERATIONS = {
    "add": ("{0} + {1}", "{0} + {1}", "Add"),
    "sub": ("{0} - {1}", "{0} - {1}", "Sub"),
    "mul": ("{0} * {1}", "{0} * {1}", "Mul"),
    "div": ("{0} / {1}", "{0} / {1}", "Div"),
    "maximum": ("fmax({0}, {1})", "np.maximum({0}, {1})", "Max"),
    "minimum": ("fmin({0}, {1})", "np.minimum({0}, {1})", "Min"),
    "equal": ("{0} == {1}", "({0} == {1}) + 0.0", "Equal"),
    "greater": ("{0} > {1}", "({0} > {1}) + 0.0", "Greater"),
    "at_least": ("{0} >= {1}", "({0} >= {1}) + 0.0", "GreaterOrEqual"),
    "isnan": ("isnan({0}) != 0", "np.isnan({0}) + 0.0", "IsNaN"),
    "where": ("{0} != 0 ? {1} : {2}", "np.where({0} != 0, {1}, {2})", "Where"),
    "exp": ("exp({0})", "np.exp({0})", "Exp"),
    "log": ("log({0})", "np.log({0})", "Log"),
    "tanh": ("tanh({0})", "np.tanh({0})", "Tanh"),
    "sqrt": ("sqrt({0})", "np.sqrt({0})", "Sqrt"),
    "abs": ("fabs({0})", "np.abs({0})", "Abs"),
    "floor": ("floor({0})", "np.floor({0})", "Floor"),
    "erf": ("erf({0})", "_erf({0})", "Erf"),
    "sum": ("s + {0}[j]", "{0}.sum(axis=1, keepdims=True)", "ReduceSum"),
    "max": ("fmax(s, {0}[j])", "{0}.max(axis=1, keepdims=True)", "ReduceMax"),
    "matmul": ("s + (double){0}[j] * {1}[j * {n} + i]", "{0} @ {1}", "MatMul"),
    "take": ("{0}[{1}[i]]", "{0}[:, {1}]", "Gather"),
    "concat": ("{0}", "np.hstack([{0}])", "Concat"),
    "cast": ("{0}", "{0}.astype(np.{dtype})", "Cast"),
    "input": ("x[i]", "np.asarray(X, np.float64)", "Cast"),
    "lookup": ("{1}[(int){0}[i]]", "{1}[{0}.astype(int)]", "Gather"),
}


@dataclass(frozen=True, eq=False)
class Value:
    """A constant, whose op is "constant", or one of OPERATIONS and its result.

    "matmul" is of a value and a constant matrix, "take" of a value and the numbers of columns,
    "where" of a mask and two values, "lookup" of places and a constant.
    width: number of columns.  array: of a constant.
    """

    op: str
    inputs: tuple[Value, ...]
    width: int
    wide: bool
    array: Any = None

    def __add__(self, other: Any) -> Value:
        return self.apply("add", other)

    def __sub__(self, other: Any) -> Value:
        return self.apply("sub", other)

    def __rsub__(self, other: Any) -> Value:
        return _constant(other, self.wide).apply("sub", self)

    def __mul__(self, other: Any) -> Value:
        return self.apply("mul", other)

    def __truediv__(self, other: Any) -> Value:
        return self.apply("div", other)

    def __rtruediv__(self, other: Any) -> Value:
        return _constant(other, self.wide).apply("div", self)

    def __matmul__(self, W: Array) -> Value:
        return Value("matmul", (self, _constant(W, self.wide)), W.shape[1], self.wide)

    def apply(self, op: str, *others: Any) -> Value:
        """Return the result of an operation on this value and others, values or numbers."""
        inputs = (self, *(_constant(other, self.wide) for other in others))
        widths = [] if op in ("sum", "max") else [v.width for v in inputs if v.width != 1]
        return Value(op, inputs, widths[0] if widths else 1, self.wide)

    def lookup(self, table: Array) -> Value:
        """Return the entries of a table, (n,), whose places the value holds."""
        return Value("lookup", (self, _constant(table, self.wide)), self.width, self.wide)

    def cast(self, wide: bool) -> Value:
        """Return the value in float64 or float32."""
        return self if wide == self.wide else Value("cast", (self,), self.width, wide)

    def take(self, columns: Any) -> Value:
        """Return the columns of these numbers."""
        columns = np.asarray(columns, np.int64)
        return Value("take", (self, _constant(columns)), len(columns), self.wide)


def concat(parts: Sequence[Value]) -> Value:
    """Return the columns of all parts side by side."""
    filled = tuple(part for part in parts if part.width)
    if len(filled) == 1:
        return filled[0]
    return Value("concat", filled, sum(part.width for part in filled), parts[0].wide)


def named(
    output: Value, number: Callable[[Any], str] | None = None
) -> tuple[dict[Value, str], dict[str, Array]]:
    """Return the names of all values that `output` needs, and the constants by their names.

    Each value stands after its inputs.  Equal constants have one name.  number: the text of one
    number, which then takes the place of a name.
    """
    names: dict[Value, str] = {}
    constants: dict[str, Array] = {}
    known: dict[Any, str] = {}
    stack = [output]
    while stack:
        value = stack[-1]
        waiting = [each for each in value.inputs if each not in names]
        if waiting or value in names:
            stack[-1:] = [] if value in names else [value, waiting[0]]
            continue
        names[value] = f"v{len(names)}"
        if value.op != "constant":
            continue
        if number is not None and value.array.ndim == 0:
            names[value] = number(value.array[()])
            continue
        key = (value.array.dtype, value.array.shape, value.array.tobytes())
        names[value] = known.setdefault(key, names[value])
        constants[names[value]] = value.array
    return names, constants


def _constant(value: Any, wide: bool | None = None) -> Value:
    """Return a constant in float64 or float32; in its own type where that is not said."""
    if isinstance(value, Value):
        return value
    array = np.asarray(value, None if wide is None else np.float64 if wide else np.float32)
    return Value("constant", (), array.size if array.ndim else 1, wide is not False, array)
