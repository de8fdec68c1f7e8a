"""Each layer, preprocessing and loss function as operations of a graph: inference only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from minidl import layers as kinds
from minidl.data.kinds import KINDS, ColumnSchema
from minidl.data.preprocessing.contract import Preprocessing
from minidl.data.preprocessing.features import TableFeatures
from minidl.data.preprocessing.scaling import Scaling
from minidl.data.preprocessing.tabular import PiecewiseLinear, QuantileTransform, SmoothClip
from minidl.data.schema import Schema
from minidl.errors import ConfigError
from minidl.export.graph import Value, concat
from minidl.kernels import Array
from minidl.layers import Layer
from minidl.losses import Poisson, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.regression import ScaledLoss
from minidl.predictor import Predictor


def lower(predictor: Predictor, *, narrow: bool = False) -> Value:
    """Return what the model predicts for raw rows: probabilities of the classes, or values.

    narrow: compute the layers in float32, whatever the dtype of the model.
    Raises ConfigError, naming it, for a part that has no operations here.
    """
    wide = predictor.model.dtype == np.float64 and not narrow
    raw = Value("input", (), predictor.n_features, wide=True)

    def outputs(x: Value) -> Value:
        encoded = _encoded(predictor.preprocessing, x).cast(wide)
        return _through(predictor.model.layers, encoded)

    if predictor.views is None:
        return _predicted(predictor, outputs(raw))
    # A view of the column numbers is where each number comes from; 0 is what comes in from outside.
    numbers = np.arange(1, predictor.n_features + 1)[None]
    padded = concat([raw, raw.take([0]) * 0])
    views = [
        outputs(padded.take((view[0] - 1) % padded.width)) for view in predictor.views(numbers)
    ]
    return _predicted(predictor, sum(views[1:], views[0]) / len(views))


def has_several_labels(predictor: Predictor) -> bool:
    """Whether a row may have several of the classes at once."""
    n_outputs = predictor.model.output_size(predictor.preprocessing.n_out)
    return predictor.loss_function.task == "multilabel" and n_outputs > 1


def columns_of(predictor: Predictor) -> Sequence[ColumnSchema]:
    """Return the raw columns: numbers, categories with their labels, and dates."""
    preprocessing, n = predictor.preprocessing, predictor.n_features
    names = predictor.feature_names or [f"x{j}" for j in range(n)]
    schema = preprocessing.schema or Schema.plain(names, preprocessing.labels, preprocessing.dates)
    return schema.used


def made_up_rows(predictor: Predictor, n_rows: int) -> Array:
    """Return rows of the range that the preprocessing was fitted on, with gaps where it takes them.

    Categories are given by their codes, dates by their seconds from 1970.
    """
    rng, preprocessing = np.random.default_rng(0), predictor.preprocessing
    rows: Array = rng.normal(size=(n_rows, predictor.n_features))
    if isinstance(preprocessing, Scaling):
        scale = np.where(preprocessing.scale, preprocessing.scale, 1)
        return np.asarray(rows / scale + preprocessing.center)
    columns, state = columns_of(predictor), preprocessing.state()
    numbers = [j for j, column in enumerate(columns) if column.kind == "number"]
    medians = state["medians" if "medians" in state else "median"][: len(numbers)]
    rows[:, numbers] = medians + np.maximum(1, np.abs(medians)) * rows[:, numbers]
    for j, column in enumerate(columns):
        if column.kind != "number":
            rows[:, j] = rng.integers(0, len(column.labels) or 2**31, n_rows)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    return rows


def _through(layers: Sequence[Layer], x: Value) -> Value:
    for layer in layers:
        lowered = LOWERED.get(type(layer))
        if lowered is None:
            raise ConfigError(f"the layer {type(layer).__name__} cannot be exported")
        x = lowered(layer, x)
    return x


def _linear(layer: kinds.Linear, x: Value) -> Value:
    y = x @ layer.W
    return y + layer.b if layer.bias else y


def _sigmoid(x: Value) -> Value:
    return 1 / ((x * -1).apply("exp") + 1)


def _softplus(x: Value) -> Value:
    return x.apply("maximum", 0) + ((x.apply("abs") * -1).apply("exp") + 1).apply("log")


def _elu(layer: kinds.ELU, x: Value) -> Value:
    return (
        (x.apply("minimum", 0).apply("exp") - 1) * layer.alpha + x.apply("maximum", 0)
    ) * layer.scale


def _gelu(layer: kinds.GELU, x: Value) -> Value:
    if layer.approximate == "none":
        return x * ((x * math.sqrt(0.5)).apply("erf") + 1) * 0.5
    u = x * math.sqrt(2 / math.pi) * (x * x * 0.044715 + 1)
    return x * (u.apply("tanh") + 1) * 0.5


def _rms_norm(layer: kinds.RMSNorm | kinds.LayerNorm, x: Value) -> Value:
    return x / ((x * x).sum() / x.width + layer.eps).apply("sqrt") * layer.gamma


def _layer_norm(layer: kinds.LayerNorm, x: Value) -> Value:
    return _rms_norm(layer, x - x.sum() / x.width) + layer.beta


def _batch_norm(layer: kinds.BatchNorm, x: Value) -> Value:
    r = 1 / np.sqrt(layer.running_var + layer.eps)
    return (x - layer.running_mean) * r * layer.gamma + layer.beta


def _mix(layer: kinds.ParametricMix, x: Value) -> Value:
    return x + (_through(layer.layers, x) - x) * layer.a


LOWERED: dict[type[Layer], Callable[[Any, Value], Value]] = {
    kinds.Linear: _linear,
    kinds.Identity: lambda layer, x: x,
    kinds.ReLU: lambda layer, x: x.apply("maximum", 0),
    kinds.LeakyReLU: lambda layer, x: x.apply("maximum", x * layer.negative_slope),
    kinds.Tanh: lambda layer, x: x.apply("tanh"),
    kinds.Sigmoid: lambda layer, x: _sigmoid(x),
    kinds.ELU: _elu,
    kinds.SELU: _elu,
    kinds.GELU: _gelu,
    kinds.SiLU: lambda layer, x: x * _sigmoid(x),
    kinds.Mish: lambda layer, x: x * _softplus(x).apply("tanh"),
    kinds.Softplus: lambda layer, x: _softplus(x),
    kinds.ParametricMix: _mix,
    kinds.Dropout: lambda layer, x: x,
    kinds.GaussianNoise: lambda layer, x: x,
    kinds.BatchNorm: _batch_norm,
    kinds.LayerNorm: _layer_norm,
    kinds.RMSNorm: _rms_norm,
    kinds.Scale: lambda layer, x: x * layer.gamma,
    kinds.Residual: lambda layer, x: x + _through(layer.layers, x),
}


def _encoded(preprocessing: Preprocessing, x: Value) -> Value:
    if isinstance(preprocessing, Scaling):
        return (x - preprocessing.center) * preprocessing.scale
    if isinstance(preprocessing, TableFeatures):
        return _features(preprocessing, x)
    if type(preprocessing) not in (SmoothClip, QuantileTransform, PiecewiseLinear):
        raise ConfigError(f"the preprocessing {preprocessing.name} cannot be exported")
    state, dates = preprocessing.state(), preprocessing.dates
    counts = state["categories"]
    plain = [j for j in np.flatnonzero(counts == 0) if j not in dates]
    numbers = concat([x.take(plain), _date_parts(x.take(dates))])
    missing = numbers.apply("isnan")
    filled = numbers.apply("fill", missing, state["medians"])
    if "knots" in state:
        n = len(state["knots"])
        normal = np.array([NormalDist().inv_cdf((k + 0.5) / n) for k in range(n)])
        encoded = _interpolated(filled, state["knots"], normal)
    elif "column" in state:
        encoded = _bins(filled, state["column"], state)
    else:
        encoded = _clipped(filled, state["center"], state["scale"])
    marks = missing.take(np.flatnonzero(state["marked"]))
    return concat([encoded, marks, _one_hot(x, np.arange(len(counts)), counts)])


def _features(preprocessing: TableFeatures, x: Value) -> Value:
    state, used = preprocessing.state(), preprocessing.schema.used
    places = {kind: [j for j, c in enumerate(used) if c.kind == kind] for kind in KINDS}
    parts = [x.take(places["number"]), _date_parts(x.take(places["date"]))]
    for j in places["category"]:
        if (means := state.get(f"means.{j}")) is not None:
            known = (
                x.take([j] * (len(means) - 1)).apply("equal", np.arange(len(means) - 1))
                @ means[:-1]
            )
            parts.append(known + x.take([j]).apply("isnan") @ means[-1:])
    numbers = concat(parts)
    missing = numbers.apply("isnan")
    filled = numbers.apply("fill", missing, state["median"])
    clipped = _clipped(filled, state["median"], state["scale"])
    marks, bins = missing.take(np.flatnonzero(state["marked"])), _bins(filled, state["bin"], state)
    hot = [j for j in places["category"] if f"means.{j}" not in state]
    return concat([clipped, marks, bins, _one_hot(x, hot, [len(used[j].labels) for j in hot])])


def _date_parts(seconds: Value) -> Value:
    """Return year, month, day of the week, hour and days since 1970 of each date, side by side.

    Richards, Explanatory Supplement to the Astronomical Almanac, 3rd edition, 2012, chapter 15: a
    year that begins in March has its leap day at its end.
    """

    def whole(x: Value) -> Value:
        return x.apply("floor")

    days = whole(seconds / 86400)
    hour = (whole(seconds) - days * 86400) / 3600
    week_day = days + 3 - whole((days + 3) / 7) * 7
    era = whole((days + 719468) / 146097)  # of 400 years, from the first of March of year 0
    day = days + 719468 - era * 146097
    year = whole((day - whole(day / 1460) + whole(day / 36524) - whole(day / 146096)) / 365)
    day_of_year = day - year * 365 - whole(year / 4) + whole(year / 100)
    march = whole((day_of_year * 5 + 2) / 153)  # months since March
    next_year = whole(march / 10)  # January and February
    months = march + 3 - next_year * 12
    parts = concat([year + era * 400 + next_year, months, week_day, hour, seconds / 86400])
    n = seconds.width
    return parts.take([part * n + date for date in range(n) for part in range(5)])


def _clipped(x: Value, center: Any, scale: Any) -> Value:
    z: Value = (x - center) * scale
    third = z * (1 / 3)
    return z / (third * third + 1).apply("sqrt")


def _interpolated(x: Value, knots: Array, values: Array) -> Value:
    """Return `values`, (n,), interpolated at each column of x between its knots, (n, width).

    Flat beyond the ends; where knots are equal, the middle of the first and the last of them: half
    the sum of two look-ups, with the knots below x and with those up to x.
    """
    n, width = knots.shape
    gaps = np.diff(knots, axis=0)
    slopes = np.divide(np.diff(values)[:, None], gaps, out=np.zeros_like(gaps), where=gaps > 0)
    # Row i of a table: what holds where i knots are below x.
    slope = np.vstack([np.zeros(width), slopes, np.zeros(width)])
    start = np.vstack([knots[:1], knots])
    base = np.tile(np.append(values[0], values)[:, None], width)
    halves = []
    for comparison in ("greater", "at_least"):
        counts = [x.take([j] * n).apply(comparison, knots[:, j]).sum() for j in range(width)]
        place: Value = concat(counts) + np.arange(width) * (n + 1)
        k, left, low = (place.lookup(table.T.ravel()) for table in (slope, start, base))
        halves.append((x - left) * k + low)
    return (halves[0] + halves[1]) * 0.5


def _bins(x: Value, columns: Any, state: Any) -> Value:
    t: Value = (x.take(columns) - state["left"]) / state["width"]
    return t.apply("maximum", 0).apply("minimum", 1)


def _one_hot(x: Value, columns: Any, counts: Any) -> Value:
    codes = np.concatenate([np.zeros(0), *(np.arange(n) for n in counts)])
    return x.take(np.repeat(columns, counts)).apply("equal", codes)


def _predicted(predictor: Predictor, z: Value) -> Value:
    loss_function = predictor.loss_function
    if isinstance(loss_function, SoftmaxCrossEntropy):
        e = (z - z.apply("max")).apply("exp")
        return e / e.sum()
    if isinstance(loss_function, SigmoidCrossEntropy):
        p = _sigmoid(z)
        if p.width > 1:
            return p
        return concat([p * -1 + 1, p]) if len(predictor.classes) == 2 else p * 0 + 1
    if isinstance(loss_function, ScaledLoss):
        return z.cast(True) * loss_function.scale + loss_function.center
    if isinstance(loss_function, Poisson):
        return z.apply("minimum", loss_function.largest).apply("exp")
    raise ConfigError(f"the loss {type(loss_function).__name__} cannot be exported")
