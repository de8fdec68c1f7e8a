"""Compares the backward pass of a layer, a loss function or a model with finite differences.

`jacobian` computes the derivative of one example from the backward pass.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidl.kernels import Array
from minidl.layers.layer import Layer
from minidl.losses import Loss
from minidl.model import Sequential, walk, walk_paths

STEP = 1e-5  # of the differences, relative to entries above 1
NOISE = 1e-9  # what rounding makes of the slope of a function of size 1
FLOOR = 1e-3  # a gradient smaller than this is measured against this, not against itself
DIRECTIONS = 8  # in which the gradient of a whole model is compared


@dataclass(frozen=True)
class GradientRow:
    """The comparison for one array: a parameter, the input of a layer, or the logits of a loss.

    relative_error: |numerical - backward| / max(|numerical|, |backward|, floor), norms over the
    entries compared.  worst: the entry of the largest difference.  n_compared: entries compared;
    n_kinks: entries left out because the slopes around them disagree, by more than a tenth of the
    tolerance.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    relative_error: float
    worst: tuple[int, ...]
    n_compared: int
    n_kinks: int
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found: a table of relative errors, and `passed`, the verdict."""

    rows: tuple[GradientRow, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    def __repr__(self) -> str:
        header = ("layer", "name", "shape", "error", "worst entry", "kinks", "")
        table = [header] + [
            (
                row.layer,
                row.name,
                str(row.shape),
                f"{row.relative_error:.1e}",
                str(row.worst),
                f"{row.n_kinks} of {row.n_kinks + row.n_compared}",
                "FAIL" if not row.passed else "pass" if row.n_compared else "pass (kinks only)",
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )


def check_gradients(
    model: Layer | Sequential,
    x: Any,
    loss_function: Loss | None = None,
    labels: Array | None = None,
    *,
    seed: int = 0,
    tolerance: float = 1e-7,
    max_entries: int | None = None,
) -> GradientReport:
    """Compare every backward pass with central differences, in float64.

    Each layer is checked by itself, at the inputs that x gives it and with a random dy, so that
    only what is wrong fails: one row for each parameter and for its input ("x"). Then the loss's
    "logits", and the gradient of all parameters of the model together in a few random directions.

    Parameters
    ----------
    model : a layer or a Sequential, of any dtype. It is copied, and the copy is in float64.
    x : (n_samples, n_in), an array or a SciPy CSR matrix, for which no "x" is checked.
    loss_function, labels : the loss function and its targets; without them dy is random.
    seed : of the random dy and of the choice of entries.
    tolerance : the largest relative error that passes.
    max_entries : compare so many randomly chosen entries of each array, not all.

    Noise repeats: each forward is that of step 0. Each layer first makes a pass with another x and
    dy, so that state left over from an earlier step is detected.
    """
    rng = np.random.default_rng(seed)
    layers = copy.deepcopy(_layers(model))
    for layer in walk(layers):
        _to_float64(layer)
    is_model = isinstance(model, Sequential) or loss_function is not None
    check = _Check(rng, tolerance, max_entries)
    first = x.astype(np.float64)

    rows: list[GradientRow] = []
    y = first
    for i, layer in enumerate(layers):
        rows += check.layer(layer, f"{i}" if is_model else "", y)
        y = _forward(layer, y)
    if loss_function is not None:
        if labels is None:
            raise ValueError("labels are needed with a loss function")
        rows.append(check.loss_function(loss_function, y.copy(), labels))
    if is_model:
        rows += check.model(Sequential(layers), first, loss_function, labels)
    return GradientReport(tuple(rows), tolerance)


def jacobian(layer: Layer | Sequential, x: Array) -> Array:
    """Return dy_j / dx_i of one example, (n_out, n_in), row by row from `backward`.

    x: (n_in,).  With dy = 1 at output j and 0 elsewhere, backward returns row j. Noise is that of
    step 0. A layer that mixes rows, such as batch norm, has no Jacobian of one example: ValueError.
    """
    if x.ndim != 1:
        raise ValueError(f"x must be one example, (n_in,), got shape {x.shape}")
    layer = copy.deepcopy(layer)
    for inner in walk(_layers(layer)):
        if inner.mixes_rows:
            raise ValueError(
                f"layer {type(inner).__name__} has no Jacobian of one example: "
                "each row of its output depends on all rows of the batch"
            )
    n_out = _forward(layer, x[None]).shape[1]
    rows: list[Any] = []
    for dy in np.eye(n_out, dtype=x.dtype):
        _forward(layer, x[None])
        rows.append(layer.backward(dy[None], need_dx=True))
    return np.concatenate(rows)


@dataclass
class _Check:
    """The comparisons of one `check_gradients`, and what they share."""

    rng: np.random.Generator
    tolerance: float
    max_entries: int | None

    def layer(self, layer: Layer, path: str, x: Any) -> Iterator[GradientRow]:
        """Each parameter of a layer, and its input."""
        dense = isinstance(x, np.ndarray)
        y = _forward(layer, x * self.rng.uniform(0.5, 1.5))
        layer.backward(self.rng.normal(size=y.shape), dense)
        dy = self.rng.normal(size=y.shape)
        dy /= np.linalg.norm(dy)
        owners = [(path, layer)]
        owners += list(walk_paths(layer.layers, f"{path}." if path else ""))
        slots = []
        for place, owner in owners:
            for name in owner.param_names:
                slots.append((place, owner, name, getattr(owner, f"d{name}")))

        _forward(layer, x.copy())
        dx = layer.backward(dy.copy(), dense)
        found = [gradient.copy() for *_, gradient in slots]

        def measure() -> Array:
            return _forward(layer, x)

        for (place, owner, name, _), gradient in zip(slots, found, strict=True):
            array = getattr(owner, name)
            yield self.compare(_title(place, owner), name, measure, dy, array, gradient)
        if dense:
            x = x.copy()
            yield self.compare(_title(path, layer), "x", measure, dy, x, dx)

    def loss_function(self, loss_function: Loss, logits: Array, targets: Array) -> GradientRow:
        """The logits of a loss function."""
        _, dlogits = loss_function(logits.copy(), targets)

        def measure() -> Array:
            return np.array([loss_function(logits, targets)[0]])

        return self.compare(
            type(loss_function).__name__, "logits", measure, np.ones(1), logits, dlogits
        )

    def model(
        self, model: Sequential, x: Any, loss_function: Loss | None, targets: Array | None
    ) -> Iterator[GradientRow]:
        """All parameters together, through all layers and the loss function."""
        if not model.params.size:
            return
        start = model.params.copy()
        directions = self.rng.normal(size=(DIRECTIONS, start.size))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        along = np.zeros(DIRECTIONS)

        def outputs() -> Array:
            model.params[:] = start + along @ directions
            model.begin_step(0, 0)
            return model.forward(x)

        y = outputs()
        if loss_function is None:
            dy = self.rng.normal(size=y.shape)
            dy /= np.linalg.norm(dy)
            cotangent, measure = dy, outputs
        else:
            assert targets is not None
            dy, cotangent = loss_function(y, targets)[1], np.ones(1)

            def measure() -> Array:
                return np.array([loss_function(outputs(), targets)[0]])

        model.backward(dy)
        gradient = directions @ model.grads
        row = self.compare("model", "params", measure, cotangent, along, gradient)
        yield replace(row, shape=start.shape, worst=())

    def compare(
        self,
        layer: str,
        name: str,
        measure: Callable[[], Array],
        cotangent: Array,
        array: Array,
        gradient: Any,
    ) -> GradientRow:
        """The gradient of (cotangent * measure()).sum() by `array`, which `measure` reads."""
        if not isinstance(gradient, np.ndarray) or gradient.shape != array.shape:
            return GradientRow(layer, name, array.shape, np.inf, (), 0, 0, False)
        chosen = np.arange(array.size)
        if self.max_entries is not None and array.size > self.max_entries:
            chosen = np.sort(self.rng.choice(array.size, self.max_entries, replace=False))
        entries = list(zip(*np.unravel_index(chosen, array.shape), strict=True))

        middle = measure().copy()
        slopes, doubts = np.empty(len(entries)), np.empty(len(entries))
        for i, entry in enumerate(entries):
            slopes[i], doubts[i] = _slope(measure, cotangent, array, entry, middle)
        scale = max(1.0, float(np.abs(cotangent * middle).sum()))
        limit = max(0.1 * self.tolerance * np.abs(slopes).max(initial=0), NOISE * scale)
        smooth = ~(doubts > limit)  # a doubt that is not a number is no kink but an error

        analytic = gradient.reshape(-1)[chosen]
        differences = np.where(smooth, slopes - analytic, 0.0)
        sizes = (float(np.linalg.norm(part[smooth])) for part in (slopes, analytic))
        error = float(np.linalg.norm(differences)) / max(*sizes, FLOOR * scale)
        n_compared = int(smooth.sum())
        worst = tuple(map(int, entries[int(np.argmax(np.abs(differences)))])) if entries else ()
        n_kinks = len(entries) - n_compared
        passed = error <= self.tolerance
        return GradientRow(layer, name, array.shape, error, worst, n_compared, n_kinks, passed)


def _slope(
    measure: Callable[[], Array],
    cotangent: Array,
    array: Array,
    entry: tuple[Any, ...],
    middle: Array,
) -> tuple[float, float]:
    """The slope at one entry, and how far the slopes around it are from those of a smooth function.

    Two central differences c(h), c(h/2) give the slope without its error of order h**2 (Richardson
    extrapolation). On a smooth function they agree, and the bend, right slope minus left slope, is
    proportional to h. A kink anywhere in the interval breaks one of the two.
    """
    old = float(array[entry])
    h = STEP * max(1.0, abs(old))
    at = {0: middle}
    for k in (-2, -1, 1, 2):
        array[entry] = old + k * h / 2
        at[k] = measure().copy()
    array[entry] = old

    def slope(left: int, right: int) -> float:
        change = float(np.sum(cotangent * (at[right] - at[left])))
        return change / ((right - left) * h / 2)

    wide, narrow = slope(-2, 2), slope(-1, 1)
    wide_bend, narrow_bend = slope(0, 2) - slope(-2, 0), slope(0, 1) - slope(-1, 0)
    doubt = max(abs(wide - narrow), abs(wide_bend - 2 * narrow_bend))
    return (4 * narrow - wide) / 3, doubt


def _layers(model: Layer | Sequential) -> tuple[Layer, ...]:
    return model.layers if isinstance(model, Sequential) else (model,)


def _forward(layer: Layer | Sequential, x: Any) -> Array:
    layer.begin_step(0, 0)
    return layer.forward(x)


def _to_float64(layer: Layer) -> None:
    gradients = [f"d{name}" for name in layer.param_names]
    for name in (*layer.param_names, *gradients, *layer.buffer_names):
        setattr(layer, name, getattr(layer, name).astype(np.float64))


def _title(path: str, layer: Layer) -> str:
    return f"{path} {type(layer).__name__}".strip()
