"""Presets: parameters that go together under one name, and the preprocessing in front of them.

An estimator with a preset trains a plain one, whose parameters are the preset's wherever its own
are at their defaults, on what the preprocessing makes of the raw table.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from minidl.data.preprocessing import SmoothClip
from minidl.data.tables import read_columns
from minidl.errors import DataError
from minidl.estimators.fitting import hold_out
from minidl.kernels import Array

if TYPE_CHECKING:
    from minidl.estimators.perceptron import Perceptron

TABULAR: dict[str, Any] = {
    "hidden_layer_sizes": (256, 256),
    "activation": "silu",
    "dropout": 0.3,
    "solver": "adamw",
    "learning_rate_init": 0.004,
    "beta_2": 0.95,
    "weight_decay": 0.5,
    "schedule": "coslog4",
    "batch_size": 64,
    "max_iter": 120,
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tabular": {
        "classifier": {**TABULAR, "label_smoothing": 0.1},
        "regressor": {**TABULAR, "loss": {"name": "mse", "scale_targets": True}},
    }
}
# Values that suit another choice of the preset are taken only together with it.
TAKEN_WITH = {
    "hidden_layer_sizes": {"layers"},
    "activation": {"layers"},
    "dropout": {"layers", "solver"},
    "learning_rate_init": {"solver"},
    "beta_2": {"solver"},
    "weight_decay": {"solver"},
    "label_smoothing": {"loss"},
}
MOST_VISITS = 800_000  # of rows in all epochs, so that a fit ends in some 20 s
MANY_ROWS, LARGER_BATCH = 20_000, 256  # with as many rows, batches are larger
FEW_ROWS, TRIALS = 1000, 5  # with fewer rows, the epochs are chosen in several trials, not in one
CHOOSING_ROWS = 50  # with fewer still, they are not chosen
CYCLES = 4  # of the schedule


def plain(estimator: Perceptron, n_samples: int = 1000) -> Any:
    """Return an unfitted estimator without a preset, with its values in place of the defaults.

    n_samples: rows to train on, which bound the epochs.  Returns the estimator itself where it has
    no preset.
    """
    if estimator.preset is None:
        return estimator
    values = dict(
        PRESETS[estimator.preset]["classifier" if is_classifier(estimator) else "regressor"]
    )
    if n_samples >= MANY_ROWS:
        values["batch_size"] = LARGER_BATCH
    values["batch_size"] = min(values["batch_size"], n_samples)
    most_epochs = max(2**CYCLES - 1, MOST_VISITS // n_samples)
    values["max_iter"] = min(values["max_iter"], most_epochs)
    given = estimator.get_params(deep=False)
    defaults = {field.name: field.default for field in fields(estimator)}
    own = {
        name
        for name, value in given.items()
        if type(value) is not type(defaults[name]) or value != defaults[name]
    }
    taken = {
        name: value
        for name, value in values.items()
        if own.isdisjoint({name, *TAKEN_WITH.get(name, ())})
    }
    return type(estimator)(**{**given, **taken, "preset": None})


def fit_with_preset(
    estimator: Perceptron,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation: tuple[Any, Any, Any] | None,
    *,
    incremental: bool,
) -> None:
    """Fit the preprocessing, unless an earlier fit goes on, and the plain estimator behind it.

    Rows that early stopping holds out are held out from the preprocessing as well.  Without
    validation data, some rows are held out in trials that choose the number of epochs.
    """
    goes_on = estimator._table is not None and bool(estimator.warm_start or incremental)
    X = _checked(estimator, X, reset=not goes_on)
    check_consistent_length(X, y)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X)
    parts = None
    if validation is not None:
        validation = (_checked(estimator, validation[0], reset=False), *validation[1:])
    elif estimator.early_stopping and estimator.solver != "lbfgs" and not incremental:
        if goes_on and estimator.warm_start == "exact":
            parts = (estimator._resume or {}).get("parts")
        parts = parts or _parts(estimator, y)
        validation = tuple(_part(each, parts[1]) for each in (X, y, sample_weight))
        X, y, sample_weight = (_part(each, parts[0]) for each in (X, y, sample_weight))
    if not goes_on:
        estimator._table = _fitted(X)
    inputs = _inputs(estimator, X)
    if validation is not None:
        validation = (_inputs(estimator, validation[0]), *validation[1:])
    inner = plain(estimator, len(inputs))
    if goes_on or incremental:
        hand_over(estimator, inner)
    elif validation is None and _is_planned(inner, estimator):
        cycles = _best_cycles(inner, inputs, y, sample_weight)
        inner.max_iter = inner.max_iter * (2**cycles - 1) // (2**CYCLES - 1)
        inner.schedule = {"name": inner.schedule, "cycles": cycles}
    inner.n_features_in_ = inputs.shape[1]
    inner._fit(inputs, y, sample_weight, validation, incremental=incremental)
    hand_over(inner, estimator)
    if estimator._resume is not None:
        estimator._resume["parts"] = parts


def table_inputs(estimator: Perceptron, X: Any) -> Array:
    """Return what the preprocessing makes of raw rows, (n_samples, n_inputs) float32."""
    return _inputs(estimator, _checked(estimator, X, reset=False))


def hand_over(source: Perceptron, target: Perceptron) -> None:
    """Give one estimator what the other has fitted, behind the preprocessing."""
    kept = {*source.get_params(deep=False), "_table", "n_features_in_", "feature_names_in_"}
    target.__dict__.update({name: it for name, it in vars(source).items() if name not in kept})


def _checked(estimator: Perceptron, X: Any, *, reset: bool) -> Any:
    """Check X: an array of numbers comes back as such, anything else as a frame or objects."""
    if not hasattr(X, "tocsr") and not hasattr(X, "columns"):
        X = np.asarray(X)
    cells = hasattr(X, "columns") or (X.dtype.kind in "OUS" and len(X.shape) == 2 and len(X) > 0)
    X = validate_data(
        estimator,
        X if hasattr(X, "columns") or not cells else X.astype(object),
        reset=reset,
        **({"skip_check_array": True} if cells else {"ensure_all_finite": "allow-nan"}),
    )
    return X


def _fitted(X: Any) -> SmoothClip:
    columns = read_columns(X)
    codes = np.stack([column.values for column in columns], axis=1)
    _refuse_infinity(codes)
    try:
        return SmoothClip(categories=[column.labels for column in columns]).fit(codes)
    except DataError as error:
        raise ValueError(str(error)) from None


def _inputs(estimator: Perceptron, X: Any) -> Array:
    assert estimator._table is not None
    codes = estimator._table.encode(X)
    _refuse_infinity(codes)
    inputs: Array = estimator._table.transform(codes)
    return inputs


def _refuse_infinity(codes: Array) -> None:
    if np.isinf(codes).any():
        raise ValueError("Input X contains infinity")


def _is_planned(inner: Perceptron, estimator: Perceptron) -> bool:
    """Whether the course of training is the preset's own, and not the user's."""
    course = ("solver", "schedule", "max_iter")
    return all(getattr(inner, name) != getattr(estimator, name) for name in course)


def _best_cycles(inner: Perceptron, inputs: Array, y: Any, sample_weight: Any) -> int:
    """Return after how many cycles of the schedule the loss on held-out rows is least.

    At the end of each the learning rate is 0, and training for c cycles is the beginning of
    training for more: one trial measures all.  Held out is a fifth of the rows.
    """
    n_samples = len(inputs)
    alone = is_classifier(inner) and np.size(y) == n_samples and 1 in _counts(y)
    if n_samples < CHOOSING_ROWS or alone:  # a class of one row cannot be held out in part
        return CYCLES - 1
    losses = np.zeros(CYCLES)
    seeds = check_random_state(inner.random_state).randint(2**31 - 1, size=TRIALS)
    for seed in seeds if n_samples < FEW_ROWS else seeds[:1]:
        trial = clone(inner).set_params(
            early_stopping=True,
            validation_fraction=0.2,
            n_iter_no_change=np.inf,
            random_state=int(seed),
            batch_size=min(inner.batch_size, n_samples // 2),
            verbose=False,
            progress=False,
        )
        trial._fit(inputs, y, sample_weight)
        if len(trial.history_) < trial.max_iter:  # it diverged, or was interrupted
            break
        for c in range(CYCLES):
            end = trial.max_iter * (2 ** (c + 1) - 1) // (2**CYCLES - 1)
            losses[c] += trial.history_[end - 1]["validation_loss"]
    return int(losses.argmin()) + 1


def _parts(estimator: Perceptron, y: Any) -> tuple[Array, Array]:
    """The numbers of the rows to train on, and of those to hold out: no class is only there."""
    labels = np.asarray(y) if is_classifier(estimator) and np.ndim(y) == 1 else None
    counts = np.empty(0) if labels is None else _counts(labels)
    rows, held_out = hold_out(
        len(y),
        labels if counts.size == 2 and counts.min() > 1 else None,
        estimator.validation_fraction,
        check_random_state(estimator.random_state),
    )
    if labels is not None:
        known = np.isin(labels[held_out], labels[rows])
        rows, held_out = np.append(rows, held_out[~known]), held_out[known]
    return rows, held_out


def _counts(labels: Any) -> Array:
    counts: Array = np.unique(np.asarray(labels), return_counts=True)[1]
    return counts


def _part(rows: Any, chosen: Array) -> Any:
    return None if rows is None else _safe_indexing(rows, chosen)
