"""What a model gives for rows that it is not trained on: its outputs, its loss and its metrics."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minidl import blas, kernels
from minidl.data.batches import Rows, Transform
from minidl.data.preprocessing.features import TableFeatures
from minidl.data.preprocessing.scaling import Preprocessing, Unchanged
from minidl.errors import ParameterError, require_instance
from minidl.kernels import Array
from minidl.layers import Linear
from minidl.losses import Loss
from minidl.model import Sequential

ROWS_AT_ONCE = 1024
ALONE = 8192  # multiplications; for so few no BLAS uses its threads

Views = Callable[[Any], Iterable[Any]]
"""From rows to several arrays of their shape, such as the same images moved a little."""


def evaluate(
    model: Sequential,
    loss_function: Loss,
    X: Any,
    y: Array,
    sample_weight: Array | None = None,
    *,
    transform: Transform | None = None,
) -> dict[str, float]:
    """Return {"loss": ..., and all metrics of the loss} of a model on X, (n_samples, n_in), and y.

    Raises ValueError for targets that do not fit X or the outputs, and where there is no row.
    """
    require_instance("model", model, Sequential)
    require_instance("loss_function", loss_function, Loss)
    data = X, y, sample_weight
    rows = checked_rows(model, loss_function, transform, "the data", data)
    outputs = predict_outputs(model, rows.X, transform=transform)
    extra = loss_function.extra_metric_names
    return loss_and_metrics(loss_function, outputs, y, sample_weight, extra)


def checked_rows(
    model: Sequential,
    loss_function: Loss,
    transform: Transform | None,
    name: str,
    data: Sequence[Any],
) -> Rows:
    """Return (X, y) or (X, y, sample_weight) as rows.

    Raises ValueError, which begins with `name`, where they are incomplete, or do not fit the model
    or the loss.
    """
    rows, expected = Rows(*data), model.input_size
    for what, array in (("X", rows.X), ("targets", rows.y)):
        if not hasattr(array, "dtype"):
            raise ParameterError(name, f"needs {what} as an array, got {type(array).__name__}")
    n, w = rows.X.shape[0], rows.sample_weight
    if len(rows.X.shape) != 2 or n == 0:
        raise ValueError(f"{name} needs X with rows and columns, got shape {rows.X.shape}")
    for what, array in (("targets", rows.y), ("sample weights", w)):
        if array is not None and len(array) != n:
            raise ValueError(f"{name} has {n} rows but {len(array)} {what}")
    if w is not None and not (np.min(w) >= 0 and 0 < np.sum(w) < np.inf):
        raise ValueError(f"{name} needs sample weights that are finite, >= 0 and not all 0")
    if transform is None and expected not in (None, rows.X.shape[1]):
        raise ValueError(f"{name} has {rows.X.shape[1]} features, the model takes {expected}")
    outputs = predict_outputs(model, rows.X[:1], transform=transform)
    try:
        loss_function.check_targets(rows.y, outputs.shape[1])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return rows


def loss_and_metrics(
    loss_function: Loss,
    outputs: Array,
    y: Array,
    sample_weight: Array | None = None,
    extra: Collection[str] = (),
) -> dict[str, float]:
    """Return {"loss": ..., and the loss's metrics} of outputs, for targets checked before.

    extra: which metrics are wanted that take longer, of the loss's `extra_metric_names`.
    """
    loss, _ = loss_function(outputs, y, sample_weight)
    return {"loss": loss, **loss_function.metrics(outputs, y, sample_weight, extra)}


def is_usable(X: Any, n_features: int) -> bool:
    """Return whether X is an array of finite floats, (n_samples, n_features), with a row."""
    is_array = type(X) is np.ndarray and X.dtype in (np.float32, np.float64)
    return is_array and X.shape[1:] == (n_features,) and len(X) > 0 and kernels.all_finite(X)


def class_probabilities(predicted: Array, n_classes: int) -> Array:
    """Return (n_samples, n_classes), of which a loss with one output predicts the last column."""
    if predicted.shape[1] > 1:
        return predicted
    return np.ones_like(predicted) if n_classes == 1 else np.hstack([1 - predicted, predicted])


def decided(loss_function: Loss, outputs: Array, labels: Array | None) -> Array:
    """Return what outputs say: one of `labels`, 0 or 1 for each of several, or values."""
    places = loss_function.predict_targets(outputs)
    if places.ndim == 2 and places.shape[1] == 1:
        places = places[:, 0]
    if labels is None or places.ndim == 2:
        return places
    return np.asarray(labels[np.minimum(places, len(labels) - 1)])


def predict_encoded(
    model: Sequential, preprocessing: Preprocessing, encoded: Any, views: Views | None = None
) -> Array:
    """Return the model's outputs for rows as numbers, labels of categories as their codes."""
    first = model.layers[0]
    same = isinstance(preprocessing, Unchanged) and encoded.dtype == model.dtype
    transform = None if same else partial(preprocessing.transform, dtype=model.dtype)
    many = encoded.shape[0] >= ROWS_AT_ONCE and kernels.name() == "compiled"
    dense = isinstance(encoded, np.ndarray)  # `transform` refuses others
    if many and dense and isinstance(preprocessing, TableFeatures) and type(first) is Linear:
        look_up = preprocessing.look_up(first.W, first.b if first.bias else None)
        if look_up is not None:
            return predict_outputs(model, encoded, transform=look_up, n_done=1)
    return predict_outputs(model, encoded, transform=transform, views=views)


def predict_outputs(
    model: Sequential,
    X: Any,
    *,
    transform: Transform | None = None,
    views: Views | None = None,
    n_done: int = 0,
) -> Array:
    """Return the model's outputs for X, a bounded number of rows at a time.

    With `views` they are the mean of the outputs for each view of the raw rows. Outside of
    `kernels.threads` the number of threads is chosen from the sizes.  n_done: the layers whose work
    `transform` has done.
    """

    def outputs(x: Any) -> Array:
        y: Array = x if transform is None else transform(x)
        if not n_done:
            return model.forward(y, train=False)
        for layer in model.layers[n_done:]:
            y = layer.forward(y, train=False)
        return y

    n_rows = X.shape[0]
    if n_rows == 1 and views is None and kernels.name() == "compiled":  # no BLAS takes part
        return outputs(X)
    if not kernels.threads_are_set():
        n_multiplications = model.params.size * min(n_rows, ROWS_AT_ONCE)
        if n_multiplications > ALONE:
            with kernels.threads(blas.automatic_threads(n_multiplications)):
                return _in_blocks(outputs, X, views)
    return _in_blocks(outputs, X, views)


def _in_blocks(outputs: Callable[[Any], Array], X: Any, views: Views | None) -> Array:
    parts = []
    for start in range(0, max(1, X.shape[0]), ROWS_AT_ONCE):
        x = X[start : start + ROWS_AT_ONCE]
        parts.append(outputs(x) if views is None else _mean([outputs(v) for v in views(x)]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _mean(arrays: Sequence[Array]) -> Array:
    return np.mean(arrays, axis=0, dtype=arrays[0].dtype)
