"""Each layer, preprocessing and loss function as operations of a graph: inference only."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from minidl import layers as kinds
from minidl.data.kinds import KINDS, ColumnSchema
from minidl.data.preprocessing.scaling import Scaling
from minidl.data.preprocessing.tabular import TableInputs
from minidl.data.schema import Schema
from minidl.errors import ConfigError
from minidl.export.graph import Value, concat
from minidl.kernels import Array
from minidl.layers import Layer
from minidl.losses import Poisson, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.regression import ScaledLoss
from minidl.predictor import Predictor


def lower(predictor: Predictor, *, narrow: bool = False) -> Any:
    """Return what the model predicts for raw rows, a `Value`: probabilities of classes, or values.

    narrow: compute the layers in float32, whatever the dtype of the model.
    Raises ConfigError, naming it, for a part that has no operations here.
    """
    dtype = "float32" if narrow else predictor.model.dtype.name
    raw: Any = Value("input", (), predictor.n_features, "float64")
    views = [raw]
    if predictor.views is not None:
        # A view of the column numbers tells where each number comes from; 0 is from outside.
        numbers = np.arange(1, predictor.n_features + 1)[None]
        padded = concat([raw, raw.take([0]) * 0])
        views = [padded.take((v[0] - 1) % padded.width) for v in predictor.views(numbers)]
    outputs = [
        _through(predictor.model.layers, _encoded(predictor, view).cast(dtype)) for view in views
    ]
    mean = outputs[0] if len(views) == 1 else sum(outputs[1:], outputs[0]) / len(views)
    return _predicted(predictor, mean)


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
    rng, preprocessing, state = np.random.default_rng(0), predictor.preprocessing, _state(predictor)
    rows: Array = rng.normal(size=(n_rows, predictor.n_features))
    columns = columns_of(predictor)
    numbers = [j for j, column in enumerate(columns) if column.kind == "number"]
    if isinstance(preprocessing, Scaling):
        center, spread = state["center"], 1 / np.where(state["scale"], state["scale"], 1)
    else:
        center = state["medians"][: len(numbers)]
        spread = np.maximum(1, np.abs(center))
    rows[:, numbers] = center + spread * rows[:, numbers]
    for j, column in enumerate(columns):
        if column.kind != "number":
            rows[:, j] = rng.integers(0, len(column.labels) or 2**31, n_rows)
    if preprocessing.takes_missing:
        rows[rng.random(rows.shape) < 0.05] = np.nan
    return rows


def _through(layers: Sequence[Layer], x: Any) -> Any:
    for layer in layers:
        if type(layer) not in LOWERED:
            raise ConfigError(f"the layer {type(layer).__name__} cannot be exported")
        x = LOWERED[type(layer)](layer, x)
    return x


def _sigmoid(x: Any) -> Any:
    return 1 / (np.exp(-x) + 1)


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log(np.exp(-np.abs(x)) + 1)


def _elu(layer: kinds.ELU, x: Any) -> Any:
    return ((np.exp(np.minimum(x, 0)) - 1) * layer.alpha + np.maximum(x, 0)) * layer.scale


def _gelu(layer: kinds.GELU, x: Any) -> Any:
    if layer.approximate == "none":
        u = x * math.sqrt(0.5)
        return x * (u.result("erf", u) + 1) * 0.5
    return x * (np.tanh(x * math.sqrt(2 / math.pi) * (x * x * 0.044715 + 1)) + 1) * 0.5


def _rms_norm(layer: kinds.RMSNorm | kinds.LayerNorm, x: Any) -> Any:
    return x / np.sqrt((x * x).sum() / x.width + layer.eps) * layer.gamma


def _layer_norm(layer: kinds.LayerNorm, x: Any) -> Any:
    return _rms_norm(layer, x - x.sum() / x.width) + layer.beta


def _batch_norm(layer: kinds.BatchNorm, x: Any) -> Any:
    r = 1 / np.sqrt(layer.running_var + layer.eps)
    return (x - layer.running_mean) * r * layer.gamma + layer.beta


LOWERED: dict[type[Layer], Callable[[Any, Any], Any]] = {
    kinds.Linear: lambda layer, x: x @ layer.W + layer.b if layer.bias else x @ layer.W,
    kinds.Identity: lambda layer, x: x,
    kinds.ReLU: lambda layer, x: np.maximum(x, 0),
    kinds.LeakyReLU: lambda layer, x: np.maximum(x, x * layer.negative_slope),
    kinds.Tanh: lambda layer, x: np.tanh(x),
    kinds.Sigmoid: lambda layer, x: _sigmoid(x),
    kinds.ELU: _elu,
    kinds.SELU: _elu,
    kinds.GELU: _gelu,
    kinds.SiLU: lambda layer, x: x * _sigmoid(x),
    kinds.Mish: lambda layer, x: x * np.tanh(_softplus(x)),
    kinds.Softplus: lambda layer, x: _softplus(x),
    kinds.ParametricMix: lambda layer, x: x + (_through(layer.layers, x) - x) * layer.a,
    kinds.Dropout: lambda layer, x: x,
    kinds.GaussianNoise: lambda layer, x: x,
    kinds.BatchNorm: _batch_norm,
    kinds.LayerNorm: _layer_norm,
    kinds.RMSNorm: _rms_norm,
    kinds.Scale: lambda layer, x: x * layer.gamma,
    kinds.Residual: lambda layer, x: x + _through(layer.layers, x),
}


def _state(predictor: Predictor) -> dict[str, Any]:
    """What the preprocessing was fitted to, with the same names in all kinds of it."""
    same = {"median": "medians", "bin": "column"}
    return {same.get(key, key): x for key, x in predictor.preprocessing.state().items()}


def _encoded(predictor: Predictor, x: Any) -> Any:
    preprocessing, state = predictor.preprocessing, _state(predictor)
    if isinstance(preprocessing, Scaling):
        return (x - state["center"]) * state["scale"]
    if not isinstance(preprocessing, TableInputs):
        raise ConfigError(f"the preprocessing {preprocessing.name} cannot be exported")
    columns = columns_of(predictor)
    places = {kind: [j for j, c in enumerate(columns) if c.kind == kind] for kind in KINDS}
    parts, hot = [x.take(places["number"]), _date_parts(x.take(places["date"]))], []
    for j in places["category"]:
        codes = np.arange(len(columns[j].labels))
        one_hot = np.equal(x.take([j] * len(codes)), codes).cast("float64")
        if (means := state.get(f"means.{j}")) is None:
            hot.append(one_hot)
        else:
            unknown = np.isnan(x.take([j])).cast("float64")
            parts.append(one_hot @ means[:-1] + unknown @ means[-1:])
    numbers = concat(parts)
    missing = np.isnan(numbers)
    filled = numbers.result("where", missing, state["medians"], numbers)
    encoded = []
    if "knots" in state and numbers.width:
        encoded.append(_interpolated(filled, state["knots"]))
    if "scale" in state:
        z = (filled - state.get("center", state["medians"])) * state["scale"]
        third = z * (1 / 3)
        encoded.append(z / np.sqrt(third * third + 1))
    if "left" in state:
        t = (filled.take(state["column"]) - state["left"]) / state["width"]
        encoded.append(np.minimum(np.maximum(t, 0), 1))
    encoded.insert(1, missing.take(np.flatnonzero(state["marked"])).cast("float64"))
    return concat([*encoded, *hot])


def _date_parts(seconds: Any) -> Any:
    """Return year, month, day of the week, hour and days since 1970 of each date, side by side.

    Richards, Explanatory Supplement to the Astronomical Almanac, 3rd edition, 2012, chapter 15: a
    year that begins in March has its leap day at its end.
    """
    days = np.floor(seconds / 86400)
    hour = (np.floor(seconds) - days * 86400) / 3600
    week_day = days + 3 - np.floor((days + 3) / 7) * 7
    era = np.floor((days + 719468) / 146097)  # of 400 years, from the first of March of year 0
    day = days + 719468 - era * 146097
    leap_days = np.floor(day / 36524) - np.floor(day / 1460) - np.floor(day / 146096)
    year = np.floor((day + leap_days) / 365)
    day_of_year = day - year * 365 - np.floor(year / 4) + np.floor(year / 100)
    march = np.floor((day_of_year * 5 + 2) / 153)  # months since March
    next_year = np.floor(march / 10)  # January and February
    months = march + 3 - next_year * 12
    parts = concat([year + era * 400 + next_year, months, week_day, hour, seconds / 86400])
    n = seconds.width
    return parts.take([part * n + date for date in range(n) for part in range(5)])


def _interpolated(x: Any, knots: Array) -> Any:
    """Return quantiles of N(0, 1), interpolated at each column of x between its knots, (n, width).

    Flat beyond the ends; where knots are equal, the middle of the first and the last of them: half
    the sum of two look-ups, with the knots below x and with those up to x.
    """
    n, width = knots.shape
    values = np.array([NormalDist().inv_cdf((k + 0.5) / n) for k in range(n)])
    gaps = np.diff(knots, axis=0)
    slopes = np.divide(np.diff(values)[:, None], gaps, out=np.zeros_like(gaps), where=gaps > 0)
    # Row i of a table: what holds where i knots are below x.
    slope = np.vstack([np.zeros(width), slopes, np.zeros(width)])
    start = np.vstack([knots[:1], knots])
    base = np.tile(np.append(values[0], values)[:, None], width)
    halves = []
    for comparison in (np.greater, np.greater_equal):
        passed = [comparison(x.take([j] * n), knots[:, j]).cast("float64") for j in range(width)]
        place: Any = concat([each.sum() for each in passed]) + np.arange(width) * (n + 1)
        k, left, low = (place.lookup(table.T.ravel()) for table in (slope, start, base))
        halves.append((x - left) * k + low)
    return (halves[0] + halves[1]) * 0.5


def _predicted(predictor: Predictor, z: Any) -> Any:
    loss_function = predictor.loss_function
    if isinstance(loss_function, SoftmaxCrossEntropy):
        e = np.exp(z - z.result("max", z))
        return e / e.sum()
    if isinstance(loss_function, SigmoidCrossEntropy):
        p = _sigmoid(z)
        if p.width > 1:
            return p
        return concat([1 - p, p]) if len(predictor.classes) == 2 else p * 0 + 1
    if isinstance(loss_function, ScaledLoss):
        return z.cast("float64") * loss_function.scale + loss_function.center
    if isinstance(loss_function, Poisson):
        return np.exp(np.minimum(z, loss_function.largest))
    raise ConfigError(f"the loss {type(loss_function).__name__} cannot be exported")
