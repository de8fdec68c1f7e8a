"""A trained model as a graph of some twenty operations on arrays, for every format alike.

Values are arrays (n_rows, width), or constants: (width,) arrays, numbers and tables. Preprocessing
is computed in float64 ("wide"), the layers of a float32 model in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    "interpolate": (
        "interpolate({0}[i], {1} + i * {n_knots}, {2}, {n_knots})",
        "_interpolate({0}, {1}, {2})",
        "",
    ),
}


@dataclass(frozen=True, eq=False)
class Value:
    """A constant, whose op is "constant", or one of OPERATIONS and its result.

    "matmul" is of a value and a constant matrix, "take" of a value and the numbers of columns.
    width: number of columns.  array: of a constant.
    """

    op: str
    inputs: tuple[Value, ...]
    width: int
    wide: bool
    array: Any = None

    def __add__(self, other: Any) -> Value:
        return _combined("add", self, other)

    def __sub__(self, other: Any) -> Value:
        return _combined("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return _combined("sub", _constant(other, self.wide), self)

    def __mul__(self, other: Any) -> Value:
        return _combined("mul", self, other)

    def __truediv__(self, other: Any) -> Value:
        return _combined("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return _combined("div", _constant(other, self.wide), self)

    def __matmul__(self, W: Array) -> Value:
        return Value("matmul", (self, _constant(W, self.wide)), W.shape[1], self.wide)

    def apply(self, function: str) -> Value:
        """Return the value of a function of one argument."""
        return Value(function, (self,), self.width, self.wide)

    def reduce(self, how: str) -> Value:
        """Return the "sum" or "max" over the columns, (n_rows, 1)."""
        return Value(how, (self,), 1, self.wide)

    def cast(self, wide: bool) -> Value:
        """Return the value in float64 or float32."""
        return self if wide == self.wide else Value("cast", (self,), self.width, wide)

    def take(self, columns: Any) -> Value:
        """Return the columns of these numbers."""
        columns = np.asarray(columns, np.int64)
        return Value("take", (self, _constant(columns)), len(columns), self.wide)


def source(n_features: int) -> Value:
    """Return the raw features."""
    return Value("input", (), n_features, True)


def maximum(x: Value, bound: Any) -> Value:
    """Return the larger of both."""
    return _combined("maximum", x, bound)


def minimum(x: Value, bound: Any) -> Value:
    """Return the smaller of both."""
    return _combined("minimum", x, bound)


def equal(x: Value, other: Any) -> Value:
    """Return 1 where both are equal, else 0."""
    return _combined("equal", x, other)


def where(mask: Value, then: Any, otherwise: Value) -> Value:
    """Return `then` where the mask is 1, else `otherwise`."""
    return Value("where", (mask, _constant(then, mask.wide), otherwise), mask.width, mask.wide)


def concat(parts: Sequence[Value]) -> Value:
    """Return the columns of all parts side by side."""
    filled = tuple(part for part in parts if part.width)
    if len(filled) == 1:
        return filled[0]
    return Value("concat", filled, sum(part.width for part in filled), parts[0].wide)


def interpolate(x: Value, knots: Array, values: Array) -> Value:
    """Return `values`, (n,), interpolated at each column of x between its knots, (n, width).

    Flat beyond the ends; where knots are equal, the middle of the first and the last of them.
    """
    inputs = (x, _constant(knots.T, x.wide), _constant(values, x.wide))
    return Value("interpolate", inputs, x.width, x.wide)


def named(output: Value) -> dict[Value, str]:
    """Return every value that `output` needs, each after its inputs, with a name.

    Equal constants have one name.
    """
    names: dict[Value, str] = {}
    constants: dict[Any, str] = {}
    stack = [output]
    while stack:
        value = stack[-1]
        waiting = [each for each in value.inputs if each not in names]
        if waiting or value in names:
            stack[-1:] = [] if value in names else [value, waiting[0]]
            continue
        names[value] = f"v{len(names)}"
        if value.op == "constant":
            key = (value.array.dtype, value.array.shape, value.array.tobytes())
            names[value] = constants.setdefault(key, names[value])
    return names


def _constant(value: Any, wide: bool | None = None) -> Value:
    """Return a constant in float64 or float32; in its own type where that is not said."""
    if isinstance(value, Value):
        return value
    array = np.asarray(value, None if wide is None else np.float64 if wide else np.float32)
    return Value("constant", (), array.size if array.ndim else 1, wide is not False, array)


def _combined(op: str, x: Value, other: Any) -> Value:
    other = _constant(other, x.wide)
    return Value(op, (x, other), x.width if other.width == 1 else other.width, x.wide)
