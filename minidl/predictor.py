"""A trained model as one file, and what `load` makes of it: raw features in, answers out.

The file holds weights, layers, loss, preprocessing, classes and feature names, and nothing of when
or where it was made, so equal runs give equal files. Needs NumPy only.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl.archive import read_archive, write_archive
from minidl.data.augmentation import ShiftedViews
from minidl.data.preprocessing import PREPROCESSINGS, Preprocessing
from minidl.errors import CheckpointError
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.layers import LAYERS
from minidl.layers.layer import Layer
from minidl.losses import LOSSES, Loss
from minidl.model import Sequential, walk

KIND, VERSION = "model", 1

_SIZES = ("n_in", "n_out", "n_features")
_MAX_FEATURES = 2**20
_UNUSED = ("rng", "dtype", "init", "gain")  # how weights began: not part of a trained model


@dataclass(frozen=True)
class Predictor:
    """A trained model with everything that a prediction from raw features needs.

    n_features: of the raw rows.
    classes: the labels in the order of the outputs; None for a regression.
    feature_names: one for each raw feature, or None.
    views: for images, the moved copies over which the outputs are averaged, or None.
    """

    model: Sequential
    loss_function: Loss
    preprocessing: Preprocessing
    n_features: int
    classes: Sequence[Any] | None = None
    feature_names: Sequence[str] | None = None
    views: ShiftedViews | None = None
    _labels: Array | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "_labels", np.asarray(self.classes))

    def predict(self, X: Any) -> Array:
        """Return the label of the most likely class for each row of X, or the predicted values.

        X: (n_samples, n_features), raw; the columns of a data frame are taken by their names where
        the model knows them.  Raises ValueError for other features, and for values that are no
        numbers or not finite.  With several labels a row: 0 or 1 for each.
        """
        decided = self.loss_function.predict_targets(self._outputs(X))
        if decided.ndim == 2 and decided.shape[1] == 1:
            decided = decided[:, 0]
        if self._labels is None or decided.ndim == 2:
            return decided
        return np.asarray(self._labels[decided])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes), in the order of `classes`.

        Raises AttributeError for a regression.
        """
        if self._labels is None:
            raise AttributeError("predict_proba is for classifiers; this model is a regression")
        p = self.loss_function.predict(self._outputs(X))
        return np.hstack([1 - p, p]) if p.shape[1] == 1 else p

    def save(self, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None) -> None:
        """Write the model file, which `load` reads.

        notes: plain values for other readers of the file; `load` passes over them.
        Raises ValueError for a layer that is not in the registry, CheckpointError where the disk
        refuses.
        """
        document = {
            "layers": [describe_layer(layer) for layer in self.model.layers],
            "dtype": self.model.dtype.name,
            "head": {
                "name": _name_in(LOSSES, self.loss_function),
                "options": asdict(self.loss_function),  # type: ignore[call-overload]
            },
            "preprocessing": self.preprocessing.name,
            "n_features": self.n_features,
            "classes": None if self.classes is None else [_plain(c) for c in self.classes],
            "feature_names": None if self.feature_names is None else list(self.feature_names),
        }
        if self.views is not None:
            document["views"] = asdict(self.views)
        if notes is not None:
            document["notes"] = notes
        fitted = {f"preprocessing.{k}": v for k, v in self.preprocessing.state().items()}
        arrays = {"params": self.model.params, "buffers": self.model.buffers, **fitted}
        write_archive(Path(path), arrays, document, kind=KIND, version=VERSION)

    def _outputs(self, X: Any) -> Array:
        X = self.preprocessing.encode(self._by_name(X))
        if isinstance(X, np.ndarray) and X.dtype.kind not in "biuf":
            try:
                X = X.astype(np.float64)
            except (ValueError, TypeError) as error:
                raise ValueError(f"X must hold numbers: {error}") from None
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must be (n_samples, {self.n_features}), got {X.shape}")
        values = X if isinstance(X, np.ndarray) else X.data
        if values.dtype.kind == "f":
            gaps = self.preprocessing.takes_missing
            wrong = np.isinf(values) if gaps else ~np.isfinite(values)
            if wrong.any():
                raise ValueError(self._not_finite(X, wrong))
        return self._outputs_for(X)

    def _outputs_for(self, encoded: Any) -> Array:
        return predict_outputs(self.model, encoded, transform=self._transform, views=self.views)

    def _by_name(self, X: Any) -> Any:
        """A data frame with its columns in the order of `feature_names`; anything else as it is."""
        names = list(getattr(X, "columns", ()))
        known = list(self.feature_names or ())
        if not (known and names) or names == known or not all(type(n) is str for n in names):
            return X
        if sorted(names) != sorted(known):
            missing, more = sorted({*known} - {*names}), sorted({*names} - {*known})
            raise ValueError(
                f"X must have the columns that the model was trained with; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(more) or 'none'}"
            )
        return X[known]

    def _transform(self, X: Any) -> Any:
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def _not_finite(self, X: Any, wrong: Array) -> str:
        if not isinstance(X, np.ndarray):
            return "X holds a value that is not finite"
        row, column = np.argwhere(wrong)[0]
        name = self.feature_names[column] if self.feature_names else f"column {column}"
        return f"X holds {X[row, column]} in row {row}, {name}: give a finite value"


def load(path: str | os.PathLike[str]) -> Predictor:
    """Return the model that a run or `Predictor.save` wrote.

    Raises CheckpointError, which names the file and what is wrong with it. Nothing that the file
    says is run, and no memory is taken that its size does not bear out.
    """
    path = Path(path)
    arrays, document = read_archive(path, kind=KIND, newest_version=VERSION)
    try:
        return _rebuild(arrays, document)
    except Exception as error:  # a forged document may bring any out of any constructor
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: not a usable model file: {reason[:300]}") from error


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Return {"name": in the registry, "options": constructor arguments}, all of plain values."""
    options: dict[str, Any] = {}
    for key in inspect.signature(type(layer)).parameters:
        if key == "layers":
            options[key] = [describe_layer(inner) for inner in layer.layers]
        elif key not in _UNUSED:
            options[key] = _plain(getattr(layer, key))
    return {"name": _name_in(LAYERS, layer), "options": options}


def build_layers(
    descriptions: Sequence[Mapping[str, Any]], n_values: int, dtype: Any
) -> list[Layer]:
    """Return the layers that `describe_layer` described, with weights still to be filled in.

    n_values: how many parameters and statistics there are for all of them; a layer that claims
    more than is left is refused before it is made.
    """
    layers: list[Layer] = []
    supplied = {"rng": np.random.default_rng(0), "dtype": dtype, "init": "zeros"}
    for description in descriptions:
        kind = LAYERS[description["name"]]
        options = dict(description["options"])
        if math.prod(int(options.get(size, 1)) for size in _SIZES) > n_values:
            raise ValueError(f"layer {description['name']} is larger than the file")
        known = inspect.signature(kind).parameters
        if "layers" in options:
            options["layers"] = build_layers(options["layers"], n_values, dtype)
        options |= {key: value for key, value in supplied.items() if key in known}
        layer = kind(**options)
        for each in walk([layer]):
            n_values -= sum(getattr(each, n).size for n in (*each.param_names, *each.buffer_names))
        layers.append(layer)
    return layers


def _rebuild(arrays: Mapping[str, Array], document: Mapping[str, Any]) -> Predictor:
    params, buffers = arrays["params"], arrays["buffers"]
    dtype = np.dtype(document["dtype"])
    if dtype not in (np.float32, np.float64) or not (params.dtype == buffers.dtype == dtype):
        raise ValueError(f"its parameters are {params.dtype}, not {dtype}")
    n_values = params.size + buffers.size
    model = Sequential(build_layers(document["layers"], n_values, dtype))
    if params.shape != model.params.shape or buffers.shape != model.buffers.shape:
        raise ValueError(f"{params.size} parameters for a model of {model.params.size}")
    model.params[:], model.buffers[:] = params, buffers
    loss_function = LOSSES[document["head"]["name"]](**document["head"]["options"])
    prefix = "preprocessing."
    fitted = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    preprocessing = PREPROCESSINGS[document["preprocessing"]]().restore(fitted)
    views = None
    if "views" in document:
        height, width, channels = document["views"]["image_shape"]
        views = ShiftedViews((height, width, channels), document["views"]["pixels"])
    predictor = Predictor(
        model,
        loss_function,
        preprocessing,
        document["n_features"],
        document["classes"],
        document["feature_names"],
        views,
    )
    _check(predictor)
    return predictor


def _check(predictor: Predictor) -> None:
    """Raise unless the parts fit together: better now than at the first prediction."""
    classes, names = predictor.classes, predictor.feature_names
    if classes is not None and not (
        isinstance(classes, list)
        and all(type(label) in (str, int, float, bool) for label in classes)
    ):
        raise ValueError("its classes are no list of labels")
    if names is not None and not (
        isinstance(names, list)
        and all(type(name) is str for name in names)
        and len(names) == predictor.n_features
    ):
        raise ValueError("its feature names are not one text for each feature")
    if type(predictor.n_features) is not int or not 1 <= predictor.n_features <= _MAX_FEATURES:
        raise ValueError(f"it claims {predictor.n_features} features")
    with np.errstate(all="ignore"):
        n_outputs = predictor._outputs_for(np.zeros((1, predictor.n_features))).shape[1]
    n_needed = (
        {1: 2}.get(n_outputs, n_outputs)
        if predictor.loss_function.task == "multilabel"
        else n_outputs
    )
    if (classes is None) != (predictor.loss_function.task == "regression"):
        raise ValueError("its classes do not fit its head")
    if classes is not None and len(classes) != n_needed:
        raise ValueError(f"it has {len(classes)} classes for {n_outputs} outputs")


def _name_in(registry: Mapping[str, type], thing: object) -> str:
    for name, kind in registry.items():
        if type(thing) is kind:
            return name
    raise ValueError(f"{type(thing).__name__} has no name in the registry, so no file can hold it")


def _plain(value: Any) -> Any:
    """A NumPy scalar or array as the Python value that JSON knows."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
