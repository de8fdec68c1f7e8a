"""A trained model as a graph of some twenty operations on arrays, for every format alike.

Values are arrays (n_rows, width), or constants: (width,) arrays and numbers. Preprocessing is
computed in float64 ("wide"), the layers of a float32 model in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.kernels import Array

ELEMENTWISE = ("add", "sub", "mul", "div", "maximum", "minimum", "equal")
FUNCTIONS = ("exp", "expm1", "log1p", "tanh", "sqrt", "abs", "erfc", "isnan")
REDUCTIONS = ("mean", "sum", "max")


@dataclass(frozen=True, eq=False)
class Value:
    """One operation and its result.

    op: "input", "constant", "cast", "matmul" (of a value and a constant matrix), "take" (columns of
    a value, whose numbers are `array`; -1 is a column of zeros), "concat", "where" (mask, then,
    else), "interpolate" (see `interpolate`), or one of the names above. width: number of columns.
    """

    op: str
    inputs: tuple[Value, ...]
    width: int
    wide: bool
    array: Any = None
    table: Any = None

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

    def apply(self, function: str) -> Value:
        """Return the value of one of FUNCTIONS."""
        return Value(function, (self,), self.width, self.wide)

    def reduce(self, how: str) -> Value:
        """Return one of REDUCTIONS over the columns, (n_rows, 1)."""
        return Value(how, (self,), 1, self.wide)

    def cast(self, wide: bool) -> Value:
        """Return the value in float64 or float32."""
        return self if wide == self.wide else Value("cast", (self,), self.width, wide)

    def matmul(self, W: Array) -> Value:
        """Return self @ W."""
        return Value("matmul", (self,), W.shape[1], self.wide, W)

    def take(self, columns: Any) -> Value:
        """Return these columns; -1 stands for a column of zeros."""
        columns = np.asarray(columns, np.int64)
        return Value("take", (self,), len(columns), self.wide, columns)


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
    filled = [part for part in parts if part.width]
    if len(filled) == 1:
        return filled[0]
    width = sum(part.width for part in filled)
    return Value("concat", tuple(filled), width, parts[0].wide)


def interpolate(x: Value, knots: Array, values: Array) -> Value:
    """Return `values`, (n,), interpolated at each column of x between its knots, (n, width).

    Flat beyond the ends; where knots are equal, the middle of the first and the last of them.
    """
    return Value("interpolate", (x,), x.width, x.wide, knots, values)


def in_order(output: Value) -> list[Value]:
    """Return every value that `output` needs, each after its inputs."""
    ordered: dict[Value, None] = {}
    stack = [(output, False)]
    while stack:
        value, inputs_done = stack.pop()
        if value in ordered:
            continue
        if inputs_done:
            ordered[value] = None
            continue
        stack.append((value, True))
        stack += [(each, False) for each in reversed(value.inputs)]
    return list(ordered)


def _constant(value: Any, wide: bool) -> Value:
    if isinstance(value, Value):
        return value
    array = np.asarray(value, np.float64 if wide else np.float32)
    return Value("constant", (), array.size if array.ndim else 1, wide, array)


def _combined(op: str, x: Value, other: Any) -> Value:
    other = _constant(other, x.wide)
    return Value(op, (x, other), x.width if other.width == 1 else other.width, x.wide)
