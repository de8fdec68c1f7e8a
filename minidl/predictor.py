"""A trained model as one file, and what `load` makes of it: raw features in, predictions out.

The file holds weights, layers, loss, preprocessing, classes and feature names, and nothing of when
or where it was made, so equal runs give equal files. Needs NumPy only.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minidl import conformal, trees
from minidl.archive import document_text, read_archive, write_archive
from minidl.data.augmentation import ShiftedViews
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.preprocessing.scaling import Preprocessing, Scaling, Unchanged
from minidl.data.schema import Schema
from minidl.data.tables import as_frame, listed, table_of
from minidl.errors import CheckpointError, require, require_instance
from minidl.evaluation import class_probabilities, decided, is_usable, predict_encoded
from minidl.kernels import Array
from minidl.labels import label_array, plain_labels, restored_labels, stored_labels
from minidl.layers import LAYERS
from minidl.losses import LOSSES, Loss
from minidl.model import Sequential
from minidl.reprs import call_of
from minidl.specs import build_layers, made_from, spec_of, weigh

KIND, VERSION = "model", 2
MAX_FEATURES = 2**20
MAX_NAME = 10_000  # characters of a feature name
_FREE_NUMBERS = 2**22  # of one row in all layers, for which a file need not hold parameters


@dataclass(frozen=True, repr=False)
class Predictor(conformal.LabelSets, conformal.Intervals):
    """A trained model with everything that a prediction from raw features needs.

    n_features: number of raw features.
    classes: the labels in the order of the outputs, a sequence or an array, kept as a list; None
    for a regression.
    feature_names: one for each raw feature, or None.
    views: for images, the shifted copies over which the outputs are averaged, or None.
    notes: plain values and arrays for other readers of the file, or None.
    conformal_scores: for `predict_set` and `predict_interval`: see `minidl.conformal`; or None.
    schema: what the columns of the training table were, or None: rows are then read as that table
    was, from texts, numbers, dates and booleans alike.
    """

    model: Sequential
    loss_function: Loss
    preprocessing: Preprocessing
    n_features: int
    classes: Any = None
    feature_names: Sequence[str] | None = None
    views: ShiftedViews | None = None
    notes: Mapping[str, Any] | None = None
    conformal_scores: Array | None = None
    schema: Schema | None = None
    _labels: Array | None = field(init=False, default=None)
    _reported: set[str] = field(init=False, default_factory=set, compare=False)

    def __post_init__(self) -> None:
        require_instance("model", self.model, Sequential)
        require_instance("loss_function", self.loss_function, Loss)
        require_instance("preprocessing", self.preprocessing, Preprocessing)
        if self.schema is None:
            object.__setattr__(self, "schema", self.preprocessing.schema)
        if self.classes is not None:
            object.__setattr__(self, "classes", plain_labels(self.classes))
            object.__setattr__(self, "_labels", label_array(self.classes))

    def __repr__(self) -> str:
        known = "regression" if self.classes is None else f"{len(self.classes)} classes"
        return (
            f"Predictor of {self.n_features} features, {known}\n"
            f"loss: {self.loss_function}\npreprocessing: {call_of(self.preprocessing)}\n"
            f"{self.model.summary()}"
        )

    def predict(self, X: Any) -> Array:
        """Return the label of the most likely class for each row of X, or the predicted values.

        X: (n_samples, n_features), raw. The columns of a data frame are taken by their names where
        the model knows them; others are ignored, with a warning the first time.  With several
        labels a row: 0 or 1 for each.  Raises ValueError for missing columns, and for values that
        are not numbers or not finite.
        """
        return decided(self.loss_function, self._outputs(X), self._labels)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes), in the order of `classes`.

        Raises AttributeError for a regression.
        """
        if self._labels is None:
            raise AttributeError("predict_proba is for classifiers; this model is a regression")
        return class_probabilities(self.loss_function.predict(self._outputs(X)), len(self._labels))

    @property
    def has_several_labels(self) -> bool:
        """Whether a row may have several of the classes at once."""
        n_outputs = self.model.output_size(self.preprocessing.n_out)
        return self.loss_function.task == "multilabel" and n_outputs > 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, which `load` reads.

        Raises ValueError for what a file cannot hold (see `check`), DivergenceError for weights
        that are not finite, CheckpointError where the disk refuses.
        """
        arrays, document = self.check()
        write_archive(
            Path(path), arrays, document, kind=KIND, version=VERSION, may_hold_nan=("notes.",)
        )

    def check(self) -> tuple[trees.Arrays, dict[str, Any]]:
        """Return what `save` writes; raise ValueError unless it can, and `load` would take it.

        A run calls this before training, so that no finished work is lost.
        """
        _check(self)
        arrays, document = trees.split(self._tree())
        document_text(list(arrays), document, KIND, VERSION)
        return arrays, document

    def _tree(self) -> dict[str, Any]:
        schema = None if self.schema is self.preprocessing.schema else self.schema
        return {
            "layers": [spec_of(layer, LAYERS) for layer in self.model.layers],
            "params": self.model.params,
            "buffers": self.model.buffers,
            "dtype": self.model.dtype.name,
            "loss": spec_of(self.loss_function, LOSSES),
            "preprocessing": self.preprocessing.name,
            "fitted": self.preprocessing.state(),
            "n_features": self.n_features,
            "classes": None if self.classes is None else stored_labels(self.classes),
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "views": None if self.views is None else asdict(self.views),
            "notes": self.notes,
            "conformal_scores": self.conformal_scores,
            "schema": None if schema is None else schema.state(),
        }

    def _outputs(self, X: Any) -> Array:
        scaled = self.schema is None and isinstance(self.preprocessing, Scaling)
        if scaled and is_usable(X, self.n_features):
            return self.outputs(X)
        X = self._encoded(X)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must be (n_samples, {self.n_features}), got {X.shape}")
        values = X if isinstance(X, np.ndarray) else X.data
        if values.dtype.kind == "f":
            wrong = np.isinf(values) if self.preprocessing.takes_missing else ~np.isfinite(values)
            if wrong.any() and X is not values:
                raise ValueError("X holds a value that is not finite")
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                name = self.feature_names[column] if self.feature_names else f"column {column}"
                where = f"{X[row, column]} in row {row}, {name}"
                raise ValueError(f"X holds {where}: give a finite value")
        return self.outputs(X)

    def _encoded(self, X: Any) -> Any:
        """Return rows as numbers: those of a table by its schema, or else the preprocessing's."""
        if hasattr(X, "tocsr"):
            return X
        X = as_frame(X)
        has_names, labels = hasattr(X, "columns"), self.preprocessing.labels
        if not has_names:
            X = np.asarray(X)
        if self.schema is not None:
            schema, known = self.schema, {column.name for column in self.schema.columns}
        elif not has_names and X.dtype.kind in "biuf" and not any(labels):
            return X
        else:
            X = table_of(X)
            if self.feature_names is None and len(X.columns) != self.n_features:
                raise ValueError(f"X must have {self.n_features} columns, got {len(X.columns)}")
            names = [name.strip() for name in self.feature_names or X.columns]
            schema, known = Schema.plain(names, labels, self.preprocessing.dates), set(names)
        values = schema.encode(X, warn_at=5)
        columns = X.columns if has_names else ()
        unused = sorted({str(name).strip() for name in columns} - known)
        if len(unused) < len(columns) and not self._reported.issuperset(unused):
            self._reported.update(unused)
            text = f"X has columns that the model does not use: {listed(unused)}"
            warnings.warn(text, stacklevel=4)
        return values

    def outputs(self, encoded: Any) -> Array:
        """Return the model's outputs for rows as numbers, labels of categories as their codes."""
        return predict_encoded(self.model, self.preprocessing, encoded, self.views)


def save(
    model: Sequential,
    loss_function: Loss,
    path: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    classes: Any = None,
    feature_names: Sequence[str] | None = None,
) -> None:
    """Write a trained model to a file that `load` reads.

        minidl.save(model, SoftmaxCrossEntropy(), "model.npz", classes=["cat", "dog"])

    Parameters
    ----------
    preprocessing : what was fitted on the training rows and applied to them; by default the model
        takes its features as they are.
    classes : labels in the order of the outputs; by default 0, 1, ... for a classifier.
    feature_names : one for each raw feature.

    Raises ValueError for what no file can hold, such as a layer of your own.
    """
    require_instance("model", model, Sequential)
    require_instance("loss_function", loss_function, Loss)
    if preprocessing is None:
        n_features = model.input_size if feature_names is None else len(feature_names)
        require("feature_names", feature_names, n_features is not None, "given for this model")
        preprocessing = Unchanged().fit(np.zeros((1, n_features or 1)))
    if classes is None and loss_function.task != "regression":
        n_outputs = model.output_size(preprocessing.n_out)
        classes = range(2 if loss_function.task == "multilabel" and n_outputs == 1 else n_outputs)
    n_features = preprocessing.n_features
    Predictor(model, loss_function, preprocessing, n_features, classes, feature_names).save(path)


def load(path: str | os.PathLike[str]) -> Predictor:
    """Return the model that a run or `save` wrote.

    Raises CheckpointError, which names the file and what is wrong with it. Nothing in the file is
    executed, and no more memory is taken than its size and 64 MB.
    """
    path = Path(path)
    arrays, document = read_archive(path, kind=KIND, newest_version=VERSION)
    try:
        if "head" in document:
            arrays, document = _from_version_1(arrays, document)
        return _rebuild(trees.join(arrays, document))
    except Exception as error:  # a forged document may raise any exception in any constructor
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        line = " ".join(reason.split())[:300]
        raise CheckpointError(f"{path}: not a usable model file: {line}") from error


def _rebuild(tree: Mapping[str, Any]) -> Predictor:
    n_features, params, buffers = tree["n_features"], tree["params"], tree["buffers"]
    if type(n_features) is not int or not 1 <= n_features <= MAX_FEATURES:
        raise ValueError(f"it claims {str(n_features)[:40]} features")
    if tree["dtype"] not in ("float32", "float64"):
        raise ValueError("its dtype is neither float32 nor float64")
    preprocessing = PREPROCESSINGS[tree["preprocessing"]]().restore(trees.flat(tree["fitted"]))
    if weigh(tree["layers"], preprocessing.n_out)[0] > params.size:
        raise ValueError("its layers are larger than the file")
    rng = np.random.default_rng(0)
    layers = build_layers(tree["layers"], preprocessing.n_out, noise=rng, dtype=tree["dtype"])
    views = tree.get("views")
    if views is not None:
        spec = {"name": "views", **views, "image_shape": tuple(views["image_shape"])}
        views = made_from(spec, {"views": ShiftedViews})
    predictor = Predictor(
        Sequential.over(layers, params, buffers),
        made_from(tree["loss"], LOSSES),
        preprocessing,
        n_features,
        None if tree["classes"] is None else restored_labels(tree["classes"]),
        tree["feature_names"],
        views,
        tree.get("notes"),
        tree.get("conformal_scores"),
        None if tree.get("schema") is None else Schema.restore(tree["schema"]),
    )
    _check(predictor)
    return predictor


def _from_version_1(
    arrays: Mapping[str, Array], document: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """A file of the first layout in the present one: options were a map of their own."""

    def flat(spec: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        options = dict(spec["options"])
        if "layers" in options and depth < 40:
            options["layers"] = [flat(layer, depth + 1) for layer in options["layers"]]
        return {"name": spec["name"], **options}

    moved = {name.replace("preprocessing.", "fitted.", 1): a for name, a in arrays.items()}
    layers = [flat(layer) for layer in document["layers"]]
    return moved, {**document, "layers": layers, "loss": flat(document["head"])}


def _check(predictor: Predictor) -> None:
    """Raise ValueError unless the parts fit together and are within the bounds of a file."""
    n_features, names, schema = predictor.n_features, predictor.feature_names, predictor.schema
    if not 1 <= n_features <= MAX_FEATURES:
        raise ValueError(f"a model file has at most {MAX_FEATURES} features, got {n_features}")
    if names is not None:
        if not isinstance(names, Sequence) or len(names) != n_features:
            raise ValueError(f"feature names must be {n_features}, one for each feature")
        if not all(type(name) is str and len(name) <= MAX_NAME for name in names):
            raise ValueError(f"feature names must be texts of at most {MAX_NAME} characters")
    if schema is not None and len(schema.names) != n_features:
        raise ValueError(f"its schema is of {len(schema.names)} columns")
    views = predictor.views
    if views is not None and (min(views.image_shape) < 1 or prod(views.image_shape) != n_features):
        raise ValueError(f"its views are of images of {views.image_shape}")
    kind = type(predictor.preprocessing)
    if PREPROCESSINGS.get(getattr(kind, "name", "")) is not kind:
        raise ValueError(f"{kind.__name__} has no name in the registry, so no file can hold it")
    layers = [spec_of(layer, LAYERS) for layer in predictor.model.layers]
    # A file of a few bytes could ask for much work: layers that have few parameters.
    _, numbers = weigh(layers, predictor.preprocessing.n_out)
    n_views = 1 if views is None else (2 * views.pixels + 1) ** 2
    if numbers * n_views > _FREE_NUMBERS + 100 * predictor.model.params.size:
        raise ValueError(f"its layers make {numbers} numbers of a row")
    classes, loss_function = predictor.classes, predictor.loss_function
    with np.errstate(all="ignore"):
        outputs = predictor.outputs(np.zeros((1, n_features)))
        answers = [loss_function.predict(outputs), loss_function.predict_targets(outputs)]
    n_outputs = outputs.shape[1]
    if any(answer.shape not in ((1,), (1, n_outputs)) for answer in answers):
        raise ValueError(f"its loss does not fit {n_outputs} outputs")
    weights = getattr(loss_function, "class_weight", None)
    if weights is not None and len(weights) != n_outputs:
        raise ValueError(f"it has {len(weights)} class weights for {n_outputs} outputs")
    if (classes is None) != (loss_function.task == "regression"):
        raise ValueError("its classes do not fit its loss")
    fitting = {1, 2} if loss_function.task == "multilabel" and n_outputs == 1 else {n_outputs}
    if classes is not None and len(classes) not in fitting:
        raise ValueError(f"it has {len(classes)} classes for {n_outputs} outputs")
    n_scores = 1 if loss_function.task == "classification" else n_outputs
    conformal.check_scores(predictor.conformal_scores, n_scores)
