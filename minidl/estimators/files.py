"""An estimator in a model file: its parameters and what it fitted, beside the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from minidl.errors import CheckpointError
from minidl.estimators.building import without_numpy
from minidl.predictor import Predictor, load


def save(
    estimator: Any, path: str | PathLike[str], predictor: Predictor, fitted: Mapping[str, Any]
) -> None:
    """Write the model of an estimator, with its parameters and its attributes `fitted`.

    Raises ValueError for a parameter that no file can hold.
    """
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        try:
            parameters[name] = _stored(value)
        except TypeError as error:
            raise ValueError(f"{name}={value!r} cannot be saved: {error}") from None
    notes = {
        "kind": type(estimator).__name__,
        "parameters": parameters,
        "fitted": {name: _stored(value) for name, value in fitted.items()},
    }
    predictor.save(path, notes)


@contextmanager
def opened(
    path: str | PathLike[str], kind: type[Any]
) -> Iterator[tuple[Any, Predictor, dict[str, Any]]]:
    """Yield an unfitted estimator with the parameters in a file, its model, and what it fitted.

    Raises CheckpointError, also where the block cannot use what the file says.
    """
    predictor = load(path)
    notes, name = predictor.notes, kind.__name__
    if not isinstance(notes, dict) or notes.get("kind") != name:
        raise CheckpointError(f"{path}: not saved by {name}.save; read it by minidl.load")
    try:
        parameters, fitted = (
            {key: _restored(value) for key, value in notes[part].items()}
            for part in ("parameters", "fitted")
        )
        if parameters.pop("preset", None) is not None:
            raise ValueError("it has a preset, which is gone; read it by minidl.load")
        yield kind(**parameters), predictor, fitted
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a usable estimator: {error}") from error


def _stored(value: Any) -> Any:
    """A parameter or figure as JSON can hold it."""
    if isinstance(value, np.random.RandomState):
        return None  # the state of a generator is not kept
    value = without_numpy(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {"pairs": [[_stored(k), _stored(v)] for k, v in value.items()]}
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        if all(set(row) == set(value[0]) for row in value):  # a table, by its columns
            return {"table": {k: _stored([row[k] for row in value]) for k in value[0]}}
    if isinstance(value, list | tuple):
        numbers = all(type(v) in (int, float) for v in value)
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: list(value) if numbers else [_stored(v) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a file cannot hold a {type(value).__name__}")


def _restored(value: Any) -> Any:
    """What `_stored` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float(inner)
    if kind == "table":
        columns = {key: _restored(column) for key, column in inner.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind == "pairs":
        return {_restored(k): _restored(v) for k, v in inner}
    return tuple(map(_restored, inner)) if kind == "tuple" else [_restored(v) for v in inner]
