"""A trained model as a graph of some twenty operations on arrays, for every format alike.

NumPy's functions and operators, applied to a value, make the next one: `np.exp(x * 2)`.  Values are
arrays (n_rows, width), or constants: (width,) arrays, numbers and tables.  Preprocessing is
computed in float64, the layers of a float32 model in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minidl.kernels import Array

C, NUMPY, ONNX = range(3)


# Each operation in C, for column i of the result, in NumPy and in ONNX.  {0}, {1}: the inputs.
# In C, s is the sum or maximum so far, over j.  {dtype}: of the result.
OPERATIONS = {
    "add": ("{0} + {1}", "{0} + {1}", "Add({0}, {1})"),
    "subtract": ("{0} - {1}", "{0} - {1}", "Sub({0}, {1})"),
    "multiply": ("{0} * {1}", "{0} * {1}", "Mul({0}, {1})"),
    "divide": ("{0} / {1}", "{0} / {1}", "Div({0}, {1})"),
    "negative": ("-{0}", "-{0}", "Neg({0})"),
    "maximum": ("fmax({0}, {1})", "np.maximum({0}, {1})", "Max({0}, {1})"),
    "minimum": ("fmin({0}, {1})", "np.minimum({0}, {1})", "Min({0}, {1})"),
    "equal": ("{0} == {1}", "{0} == {1}", "Equal({0}, {1})"),
    "greater": ("{0} > {1}", "{0} > {1}", "Greater({0}, {1})"),
    "greater_equal": ("{0} >= {1}", "{0} >= {1}", "GreaterOrEqual({0}, {1})"),
    "isnan": ("isnan({0}) != 0", "np.isnan({0})", "IsNaN({0})"),
    "where": ("{0} ? {1} : {2}", "np.where({0}, {1}, {2})", "Where({0}, {1}, {2})"),
    "exp": ("exp({0})", "np.exp({0})", "Exp({0})"),
    "log": ("log({0})", "np.log({0})", "Log({0})"),
    "tanh": ("tanh({0})", "np.tanh({0})", "Tanh({0})"),
    "sqrt": ("sqrt({0})", "np.sqrt({0})", "Sqrt({0})"),
    "absolute": ("fabs({0})", "np.abs({0})", "Abs({0})"),
    "floor": ("floor({0})", "np.floor({0})", "Floor({0})"),
    "erf": ("erf({0})", "_erf({0})", "Erf({0})"),
    "max": ("fmax(s, {0}[j])", "{0}.max(axis=1, keepdims=True)", "ReduceMax<axes=[1]>({0})"),
    "matmul": ("s + (double){0}[j] * {1}[j * {n} + i]", "{0} @ {1}", "MatMul({0}, {1})"),
    "take": ("{0}[{1}[i]]", "{0}[:, {1}]", "Gather<axis=1>({0}, {1})"),
    "lookup": ("{1}[{0}[i]]", "{1}[{0}]", "Gather({1}, {0})"),
    "concat": ("{0}", "np.hstack([{0}])", "Concat<axis=1>({0})"),
    "cast": ("{0}", '{0}.astype("{dtype}")', "Cast<to={dtype}>({0})"),
    "input": ("x[i]", "np.asarray(X, np.float64)", ""),
}
COMPARISONS = ("equal", "greater", "greater_equal", "isnan")


@dataclass(frozen=True, eq=False)
class Value(NDArrayOperatorsMixin):
    """A constant, whose op is "constant", or one of OPERATIONS and its result.

    "matmul" is of a value and a constant matrix, "take" of a value and the numbers of columns,
    "lookup" of places and a constant, "where" of a mask and two values.
    width: number of columns.  array: of a constant.
    """

    op: str
    inputs: tuple[Value, ...]
    width: int
    dtype: str
    array: Any = None
    place: int = field(default_factory=count().__next__)  # in the order in which they are made

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any) -> Value:
        return self.result(ufunc.__name__, *inputs)

    def result(self, op: str, *inputs: Any) -> Value:
        """Return the result of an operation on values and numbers, which get this value's dtype."""
        values = tuple(_constant(each, self.dtype) for each in inputs)
        widths = [each.width for each in values if each.width != 1] or [1]
        width = values[1].array.shape[1] if op == "matmul" else 1 if op == "max" else widths[0]
        return Value(op, values, width, "bool" if op in COMPARISONS else self.dtype)

    def sum(self) -> Value:
        """Return the sum of each row."""
        return self.result("matmul", self, np.ones((self.width, 1)))

    def cast(self, dtype: str) -> Value:
        """Return the value in another dtype."""
        return self if dtype == self.dtype else Value("cast", (self,), self.width, dtype)

    def take(self, columns: Any) -> Value:
        """Return the columns of these numbers."""
        return Value("take", (self, _constant(columns, "int64")), len(columns), self.dtype)

    def lookup(self, table: Array) -> Value:
        """Return the entries of a table, (n,), whose places the value holds."""
        inputs = self.cast("int64"), _constant(table, self.dtype)
        return Value("lookup", inputs, self.width, self.dtype)


def concat(parts: Sequence[Value]) -> Value:
    """Return the columns of all parts side by side."""
    filled = tuple(part for part in parts if part.width)
    if len(filled) == 1:
        return filled[0]
    return Value("concat", filled, sum(part.width for part in filled), parts[0].dtype)


def named(
    output: Value, number: Callable[[Any], str] | None = None, prefix: str = "v"
) -> tuple[dict[Value, str], dict[str, Array]]:
    """Return the names of all values that `output` needs, and the constants by their names.

    Each value stands after its inputs.  Equal constants have one name.  number: the text of one
    number, which then takes the place of a name.  prefix: the beginning of each name.
    """
    found: set[Value] = set()
    stack = [output]
    while stack:
        if (value := stack.pop()) not in found:
            found.add(value)
            stack += value.inputs
    names: dict[Value, str] = {}
    constants: dict[str, Array] = {}
    known: dict[Any, str] = {}
    for value in sorted(found, key=lambda each: each.place):
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


def _constant(value: Any, dtype: str) -> Value:
    if isinstance(value, Value):
        return value
    array = np.asarray(value, dtype)
    return Value("constant", (), array.size if array.ndim else 1, dtype, array)
