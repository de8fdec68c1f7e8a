"""An estimator in a model file: its parameters and what it fitted, beside the model."""

import math
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from minidl.errors import CheckpointError
from minidl.predictor import load
from minidl.reprs import plain


class InFiles(BaseEstimator):  # type: ignore[misc]
    """An estimator that predicts and can be saved and loaded, with its model in `_model`.

    A subclass has `_outputs(X)`, the model's; `predictor()`; `_fitted()`, what a file keeps beside
    that; and `_take(predictor, fitted)`, by which another estimator takes its place.
    """

    def predict(self, X: Any) -> Any:
        """Return labels or numbers, (n_samples,) or (n_samples, n_outputs), in the form of y.

        X: as for `fit`.
        """
        outputs = self._outputs(X)  # first of all, since it says what is not fitted
        return self._targets.decode(self._targets.loss_function.predict_targets(outputs))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to a model file, without pickle.

        `load` reads it here; `minidl.load` reads it where there is only NumPy.
        Raises ValueError for a parameter that no file can hold.
        """
        check_is_fitted(self)
        parameters = {}
        for name, value in self.get_params(deep=False).items():
            try:
                parameters[name] = _stored(value)
            except TypeError as error:
                raise ValueError(f"{name}={value!r} cannot be saved: {error}") from None
        fitted = {name: _stored(value) for name, value in self._fitted().items()}
        notes = {"kind": type(self).__name__, "parameters": parameters, "fitted": fitted}
        replace(self.predictor(), notes=notes).save(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the fitted estimator that `save` wrote: it predicts as before.

        An optimizer's averages are not in the file: training that goes on begins with new ones.
        Raises CheckpointError for a file that is damaged, or that `save` of this class did not
        write.
        """
        predictor = load(path)
        notes, name = predictor.notes, cls.__name__
        if not isinstance(notes, dict) or notes.get("kind") != name:
            raise CheckpointError(f"{path}: not saved by {name}.save; read it by minidl.load")
        try:
            parameters, fitted = (
                {key: _restored(value) for key, value in notes[part].items()}
                for part in ("parameters", "fitted")
            )
            if parameters.pop("preset", None) is not None:
                raise ValueError("it has a preset, which is gone; read it by minidl.load")
            self = cls(**parameters)
            self._take(predictor, fitted)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a usable estimator: {error}") from error
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")


def _stored(value: Any) -> Any:
    """A parameter or figure as JSON can hold it."""
    if isinstance(value, np.random.RandomState):
        return None  # the state of a generator is not kept
    value = plain(value)
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
