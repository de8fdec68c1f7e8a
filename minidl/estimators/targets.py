"""What an estimator does with its targets: to the numbers of a loss function, and back.

`Targets` are numbers; `Classes` answer the same questions for labels, so that one fit serves
classification and regression.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from minidl.data.batches import Rows
from minidl.estimators.notation import chosen
from minidl.kernels import Array
from minidl.losses import MSE, Loss, Poisson, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.regression import ScaledLoss
from minidl.predictor import Predictor


@dataclass(frozen=True)
class HalfSquaredError(MSE):
    """Half the squared error, summed over the outputs: scikit-learn's "squared_error".

    l_i     = sum_j (z_ij - t_ij)**2 / 2
    dlogits = (z - t) * w_i / total_weight
    """

    adds_outputs = True

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return 0.5 * e * e, e


@dataclass(frozen=True)
class SummedPoisson(Poisson):
    """Half the Poisson deviance, summed over the outputs: scikit-learn's "poisson"."""

    adds_outputs = True


OWN_LOSSES: dict[Any, Loss] = {"squared_error": HalfSquaredError(), "poisson": SummedPoisson()}


@dataclass(frozen=True)
class Targets:
    """Targets of a fit: numbers, one or several a row.

    loss_function: trains on what `encode` returns.  activation: name of what is applied to the
    outputs in a prediction.  score_name: the metric by which epochs are compared.
    """

    _: KW_ONLY
    loss_function: Loss = field(default_factory=MSE)
    activation: str = "identity"
    score_name: str = "loss"

    indicator = False

    def trained_by(self, loss: str | Mapping[str, Any], label_smoothing: float = 0.0) -> Self:
        """Return the targets with the loss function that an estimator's `loss` names.

        What the loss function before took from its training targets is kept.
        Raises ValueError for a loss of another kind of target.
        """
        own = OWN_LOSSES.get(loss) if isinstance(loss, str) else None
        loss_function = own or chosen("loss", loss).build()
        if loss_function.task != "regression":
            raise ValueError(f"loss must be one for regression, got {loss!r}")
        before = self.loss_function
        if isinstance(loss_function, ScaledLoss) and loss_function.scale_targets:
            if isinstance(before, ScaledLoss):
                loss_function = replace(loss_function, center=before.center, scale=before.scale)
        return replace(
            self,
            loss_function=loss_function,
            activation="exp" if isinstance(loss_function, Poisson) else "identity",
            score_name="loss" if own is None else "r2",
        )

    def fitted(self, targets: Array) -> Self:
        """Return the targets with what the loss function takes from the training targets."""
        return replace(self, loss_function=self.loss_function.fitted(targets))

    @property
    def plain_loss(self) -> Loss:
        """The loss function in a file: of the registry, with the same predictions."""
        found: Loss = self.loss_function
        return {HalfSquaredError: MSE(), SummedPoisson: Poisson()}.get(type(found), found)

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return y in this dtype; in float64 where the loss function scales it first."""
        scaled = isinstance(self.loss_function, ScaledLoss) and self.loss_function.scale_targets
        return np.asarray(y).astype(np.float64 if scaled else dtype, copy=False)

    def decode(self, targets: Array) -> Any:
        """Return targets in the form of y, from what `encode` returns or a model predicts."""
        return targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets

    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs."""
        return self.loss_function.n_outputs(targets)

    def loss_scale(self, n_outputs: int) -> float:
        """Return the factor from the loss function's loss to the one that is reported.

        That of 'squared_error' is a sum over the outputs, reported as their mean.
        """
        return 1 / n_outputs if isinstance(self.loss_function, HalfSquaredError) else 1.0

    def weighted(self, rows: Rows, class_weight: Any) -> Rows:
        """Return the rows with the weights of their classes in their own."""
        return rows


@dataclass(frozen=True)
class Classes(Targets):
    """Classes: one of several, yes or no, or several labels a row.

    classes: sorted, (n_classes,).
    indicator: y is a matrix of 0 and 1, (n_samples, n_classes).  sparse: as a sparse matrix.
    label_smoothing: of yes and no; with several classes it is the loss function's own.
    """

    classes: Array
    indicator: bool = False
    sparse: bool = False
    label_smoothing: float = 0.0

    score_name: str = field(default="accuracy", kw_only=True)

    @classmethod
    def of(cls, y: Any, classes: Array | None = None) -> Self:
        """Return the classes of y.

        classes: all that will come; by default those of y.
        Raises ValueError where y is no target of a classification.
        """
        if isinstance(y, np.ndarray) and y.dtype.kind == "O" and y.ndim == 1:
            for row, label in enumerate(y):  # what is missing cannot be sorted
                missing = label is None or type(label).__name__ in ("NAType", "NaTType")
                if missing or (isinstance(label, float) and np.isnan(label)):
                    raise ValueError(f"Input y contains NaN or None: row {row} has no label")
        check_classification_targets(y)
        kind = "one label a row" if _is_plain(y) else type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "Multioutput target data is not supported with label binarization: give one label "
                "a row, or a matrix of 0 and 1 with a column for each label"
            )
        found = _labels_in(y) if classes is None else classes
        return cls(found, kind == "multilabel-indicator", issparse(y))

    def trained_by(self, loss: str | Mapping[str, Any], label_smoothing: float = 0.0) -> Self:
        """Return the classes with the loss function that an estimator's parameters name.

        Raises ValueError for a loss of another kind of target.
        """
        several = len(self.classes) > 2
        if loss == "log_loss" and several and not self.indicator:
            loss_function: Loss = SoftmaxCrossEntropy(label_smoothing=label_smoothing)
        elif loss == "log_loss":
            loss_function = SigmoidCrossEntropy()
        else:
            loss_function = chosen("loss", loss).build()
            if label_smoothing:
                raise ValueError(
                    "label_smoothing is for loss='log_loss'; give another loss its own"
                )
            if loss_function.task == "regression":
                raise ValueError(f"loss must be one for classification, got {loss!r}")
            if loss_function.task == "multilabel" and several and not self.indicator:
                raise ValueError(f"loss={loss!r} is for two classes or several labels a row")
        return replace(
            self,
            loss_function=loss_function,
            activation="softmax" if loss_function.task == "classification" else "logistic",
            label_smoothing=label_smoothing,
        )

    @property
    def exclusive(self) -> bool:
        """Whether each row has one class, so that an indicator matrix must be one-hot."""
        return self.activation == "softmax" or not self.indicator

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return the place of each label in `classes`, for a softmax; else numbers in [0, 1].

        Those are of this dtype: (n_samples,) for yes and no, (n_samples, n_classes) for several
        labels a row.  Raises ValueError for labels that are not in `classes`.
        """
        given = _labels_in(y)
        if len(np.setdiff1d(given, self.classes, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes}. 'y' has {given}."
            )
        if self.indicator:
            codes = (y.toarray() if issparse(y) else np.asarray(y)).astype(np.int64)
        else:
            codes = np.asarray(np.searchsorted(self.classes, y))
        if self.activation == "logistic":
            smoothing = self.label_smoothing
            return np.asarray((1 - smoothing) * codes.astype(dtype) + smoothing / 2)
        if not self.indicator:
            return codes
        counts = codes.sum(axis=1)
        if (counts != 1).any():
            row = int((counts != 1).argmax())
            raise ValueError(
                f"y must have exactly one 1 in each row for this loss, but row {row} has "
                f"{counts[row]}; use loss='log_loss' for several labels a row"
            )
        return np.asarray(codes.argmax(axis=1))

    def decode(self, targets: Array) -> Any:
        """Return labels as they were given, from what `encode` returns or a model predicts."""
        codes = _codes(targets)
        if self.exclusive:  # with one class, one logit may say that it is the second
            codes = np.minimum(codes.reshape(-1), len(self.classes) - 1)
        if not self.indicator:
            return self.classes[codes]
        marks = np.eye(len(self.classes), dtype=np.int64)[codes] if self.exclusive else codes
        return csr_matrix(marks) if self.sparse else marks

    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs: one logit stands for two classes."""
        return len(self.classes) if self.activation == "softmax" or self.indicator else 1

    def weighted(self, rows: Rows, class_weight: Any) -> Rows:
        """Return the rows with the weights of their classes in their own.

        class_weight: factors by class, of which some may not occur; or "balanced", where classes
        are counted by sample_weight, so that a weight of k remains a row given k times; or None.
        """
        if class_weight is None:
            return rows
        codes, own = _codes(rows.y), rows.sample_weight
        if not self.exclusive:  # the product over the labels
            weight = compute_sample_weight(class_weight, codes)
        elif isinstance(class_weight, str):
            counts = np.bincount(codes, own, len(self.classes))
            shares = counts[codes] * np.count_nonzero(counts)
            weight = np.divide(counts.sum(), shares, out=np.zeros(len(codes)), where=shares > 0)
        else:
            classes = self.classes.tolist()
            if class_weight and set(class_weight).isdisjoint(classes):
                raise ValueError(f"class_weight names {list(class_weight)}, none of {classes}")
            weight = np.array([class_weight.get(label, 1.0) for label in classes])[codes]
        weight = weight.astype(rows.X.dtype)
        return Rows(rows.X, rows.y, weight if own is None else weight * own)


def targets_of(predictor: Predictor, indicator: bool | None) -> Targets:
    """Return the targets of a model in a file; indicator: of its classes, None in old files."""
    loss_function = predictor.loss_function
    if predictor.classes is None:
        return Targets(loss_function=loss_function)
    if indicator is None:
        n_outputs = predictor.model.output_size(predictor.n_features)
        indicator = loss_function.task == "multilabel" and n_outputs > 1
    return Classes(np.asarray(predictor.classes), indicator, loss_function=loss_function)


def plain_targets(y: Any) -> Any:
    """Return nullable, Arrow-backed and categorical columns as NumPy arrays of plain values.

    Labels keep their kind: whole numbers in a nullable column do not become floats. Anything else,
    and a column with missing values, is returned as it is.
    """
    values = getattr(y, "to_list", getattr(y, "to_pylist", None))
    if values is None or isinstance(getattr(y, "dtype", None), np.dtype):
        return y
    plain = np.array(values())
    return plain if plain.dtype.kind in "biufUS" else y


def _codes(targets: Array) -> Array:
    return targets if targets.dtype.kind == "i" else (targets > 0.5).astype(np.int64)


def _is_plain(y: Any) -> bool:
    return isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "biufUS"


def _labels_in(y: Any) -> Array:
    """Return the labels of y, sorted; of an indicator matrix the numbers of its columns."""
    # unique_labels takes 20 times as long.
    labels: Array = np.unique(y) if _is_plain(y) else unique_labels(y)
    return labels
