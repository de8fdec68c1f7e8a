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

C, NUMPY, ONNX = range(3)

# Each operation in C, for column i of the result, in NumPy and in ONNX.  {0}, {1}: the inputs.
# C: s is the sum or maximum so far, over j.  ONNX: {y}_0 is the result of the step before.
OPERATIONS = {
    "add": ("{0} + {1}", "{0} + {1}", "Add({0}, {1})"),
    "sub": ("{0} - {1}", "{0} - {1}", "Sub({0}, {1})"),
    "mul": ("{0} * {1}", "{0} * {1}", "Mul({0}, {1})"),
    "div": ("{0} / {1}", "{0} / {1}", "Div({0}, {1})"),
    "maximum": ("fmax({0}, {1})", "np.maximum({0}, {1})", "Max({0}, {1})"),
    "minimum": ("fmin({0}, {1})", "np.minimum({0}, {1})", "Min({0}, {1})"),
    "equal": ("{0} == {1}", "({0} == {1}) + 0.0", "Equal({0}, {1})"),
    "greater": ("{0} > {1}", "({0} > {1}) + 0.0", "Greater({0}, {1})"),
    "at_least": ("{0} >= {1}", "({0} >= {1}) + 0.0", "GreaterOrEqual({0}, {1})"),
    "isnan": ("isnan({0}) != 0", "np.isnan({0}) + 0.0", "IsNaN({0})"),
    "fill": ("{1} != 0 ? {2} : {0}", "np.where({1} != 0, {2}, {0})", "Where({y}_0, {2}, {0})"),
    "exp": ("exp({0})", "np.exp({0})", "Exp({0})"),
    "log": ("log({0})", "np.log({0})", "Log({0})"),
    "tanh": ("tanh({0})", "np.tanh({0})", "Tanh({0})"),
    "sqrt": ("sqrt({0})", "np.sqrt({0})", "Sqrt({0})"),
    "abs": ("fabs({0})", "np.abs({0})", "Abs({0})"),
    "floor": ("floor({0})", "np.floor({0})", "Floor({0})"),
    "erf": ("erf({0})", "_erf({0})", "Erf({0})"),
    "max": ("fmax(s, {0}[j])", "{0}.max(axis=1, keepdims=True)", "ReduceMax<axes=[1]>({0})"),
    "matmul": ("s + (double){0}[j] * {1}[j * {n} + i]", "{0} @ {1}", "MatMul({0}, {1})"),
    "take": ("{0}[{1}[i]]", "{0}[:, {1}]", "Gather<axis=1>({0}, {1})"),
    "concat": ("{0}", "np.hstack([{0}])", "Concat<axis=1>({0})"),
    "cast": ("{0}", "{0}.astype(np.{dtype})", "Cast<to={to}>({0})"),
    "input": ("x[i]", "np.asarray(X, np.float64)", ""),
    "lookup": ("{1}[(int){0}[i]]", "{1}[{0}.astype(int)]", "Gather({1}, {y}_0)"),
}


def _operator(op: str) -> Callable[[Value, Any], Value]:
    return lambda value, other: value.apply(op, other)


@dataclass(frozen=True, eq=False)
class Value:
    """A constant, whose op is "constant", or one of OPERATIONS and its result.

    "matmul" is of a value and a constant matrix, "take" of a value and the numbers of columns,
    "lookup" of places and a constant, "fill" of a value and a mask of what a third one replaces.
    width: number of columns.  array: of a constant.
    """

    op: str
    inputs: tuple[Value, ...]
    width: int
    wide: bool
    array: Any = None

    __add__ = _operator("add")
    __sub__ = _operator("sub")
    __mul__ = _operator("mul")
    __truediv__ = _operator("div")

    def __rtruediv__(self, other: Any) -> Value:
        return _constant(other, self.wide).apply("div", self)

    def __matmul__(self, W: Array) -> Value:
        return Value("matmul", (self, _constant(W, self.wide)), W.shape[1], self.wide)

    def apply(self, op: str, *others: Any) -> Value:
        """Return the result of an operation on this value and others, values or numbers."""
        inputs = (self, *(_constant(other, self.wide) for other in others))
        widths = [] if op == "max" else [v.width for v in inputs if v.width != 1]
        return Value(op, inputs, widths[0] if widths else 1, self.wide)

    def sum(self) -> Value:
        """Return the sum of each row."""
        return self @ np.ones((self.width, 1))

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
    output: Value, number: Callable[[Any], str] | None = None, prefix: str = "v"
) -> tuple[dict[Value, str], dict[str, Array]]:
    """Return the names of all values that `output` needs, and the constants by their names.

    Each value stands after its inputs.  Equal constants have one name.  number: the text of one
    number, which then takes the place of a name.  prefix: the beginning of each name.
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
        names[value] = f"{prefix}{len(names)}"
        if value.op != "constant":
            continue
        if number is not None and value.array.ndim == 0:
            names[value] = number(value.array[()])
            continue
        key = (value.array.dtype, value.array.shape, value.array.tobytes())
        names[value] = known.setdefault(key, names[value])
        constants[names[value]] = value.array
    return names, constants


def written(value: Value, names: dict[Value, str], language: int, **more: Any) -> str:
    """Return an operation in one of the languages; `more` are the other fields of its template."""
    given = [names[each] for each in value.inputs]
    given = [", ".join(given)] if value.op == "concat" else given
    return OPERATIONS[value.op][language].format(*given, **more)


def _constant(value: Any, wide: bool | None = None) -> Value:
    """Return a constant in float64 or float32; in its own type where that is not said."""
    if isinstance(value, Value):
        return value
    array = np.asarray(value, None if wide is None else np.float64 if wide else np.float32)
    return Value("constant", (), array.size if array.ndim else 1, wide is not False, array)
