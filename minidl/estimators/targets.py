"""What an estimator does with its targets: to the numbers of a loss function, and back.

`ClassTargets` and `NumberTargets` answer the same questions, so that one fit serves classification
and regression.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from minidl.data.batches import Rows
from minidl.estimators.building import loss_function_of
from minidl.estimators.labels import Labels
from minidl.estimators.losses import HalfSquaredError, SummedPoisson
from minidl.kernels import Array
from minidl.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.regression import ScaledLoss

REGRESSION_LOSSES: dict[str, type[Loss]] = {
    "squared_error": HalfSquaredError,
    "poisson": SummedPoisson,
}


@dataclass(frozen=True)
class Targets(ABC):
    """Targets of a fit.

    loss_function: trains on what `encode` returns.  activation: name of what is applied to the
    outputs in a prediction.  score_name: the metric by which epochs are compared.
    """

    loss_function: Loss
    activation: str
    score_name: str

    @property
    def indicator(self) -> bool:
        """Whether y is a matrix with a mark for each class."""
        return False

    @abstractmethod
    def encode(self, y: Any, dtype: Any) -> Array:
        """Return y as the loss function takes it."""

    @abstractmethod
    def decode(self, targets: Array) -> Any:
        """Return y as it was given, from what `encode` returned."""

    @abstractmethod
    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs."""

    @abstractmethod
    def decide(self, outputs: Array) -> Any:
        """Return predictions, in the form of y, for the model's outputs."""

    def loss_scale(self, n_outputs: int) -> float:
        """Return the factor from the loss function's loss to the one that is reported."""
        return 1.0

    def strata(self, targets: Array) -> Array | None:
        """Return what a split keeps the shares of."""
        return None

    def fitted(self, targets: Array) -> Self:
        """Return the targets with what the loss function takes from the training targets."""
        return replace(self, loss_function=self.loss_function.fitted(targets))

    def in_units_of(self, loss_function: Loss) -> Self:
        """Return the targets with what the loss function of an earlier fit took from its own."""
        return replace(self, loss_function=self.loss_function.with_scale_of(loss_function))


@dataclass(frozen=True)
class NumberTargets(Targets):
    """Numbers, one or several a row."""

    per_output: bool = False  # the loss is a sum over the outputs, reported as their mean

    @classmethod
    def of(cls, loss: str | Mapping[str, Any]) -> Self:
        """Return the targets for a regressor's `loss`.  Raises ValueError for one of classes."""
        own = REGRESSION_LOSSES.get(loss) if isinstance(loss, str) else None
        loss_function = loss_function_of(loss) if own is None else own()
        if loss_function.task != "regression":
            raise ValueError(f"loss must be one for regression, got {loss!r}")
        activation = "exp" if loss == "poisson" else "identity"
        score = "r2" if own is not None else "loss"
        return cls(loss_function, activation, score, loss == "squared_error")

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return y in this dtype; in float64 where the loss function scales it first."""
        scaled = isinstance(self.loss_function, ScaledLoss) and self.loss_function.scale_targets
        targets: Array = np.asarray(y).astype(np.float64 if scaled else dtype, copy=False)
        return targets

    def decode(self, targets: Array) -> Any:
        """Return the targets."""
        return targets

    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs."""
        return self.loss_function.n_outputs(targets)

    def decide(self, outputs: Array) -> Any:
        """Return values, (n_samples,) or (n_samples, n_outputs)."""
        values = self.loss_function.predict(outputs)
        return values[:, 0] if values.shape[1] == 1 else values

    def loss_scale(self, n_outputs: int) -> float:
        """Return the factor from the loss function's loss to the one that is reported."""
        return 1 / n_outputs if self.per_output else 1.0


@dataclass(frozen=True)
class ClassTargets(Targets):
    """Classes: one of several, yes or no, or several labels a row."""

    labels: Labels
    label_smoothing: float = 0.0  # of yes and no; with several classes the loss function's own

    @classmethod
    def of(cls, labels: Labels, loss: str | Mapping[str, Any], label_smoothing: float) -> Self:
        """Return the targets for a classifier's labels and its parameters.  Raises ValueError."""
        several = len(labels.classes) > 2
        if loss == "log_loss" and several and labels.exclusive:
            loss_function: Loss = SoftmaxCrossEntropy(label_smoothing=label_smoothing)
        elif loss == "log_loss":
            loss_function = SigmoidCrossEntropy()
        else:
            loss_function = loss_function_of(loss)
            if label_smoothing:
                raise ValueError(
                    "label_smoothing is for loss='log_loss'; give another loss its own"
                )
            if loss_function.task == "regression":
                raise ValueError(f"loss must be one for classification, got {loss!r}")
            if loss_function.task == "multilabel" and several and labels.exclusive:
                raise ValueError(f"loss={loss!r} is for two classes or several labels a row")
        activation = "softmax" if loss_function.task == "classification" else "logistic"
        return cls(loss_function, activation, "accuracy", labels, label_smoothing)

    @property
    def indicator(self) -> bool:
        """Whether y is a matrix with a mark for each class."""
        return self.labels.indicator

    @property
    def has_one_logit(self) -> bool:
        """Whether one output stands for two classes."""
        return self.loss_function.task == "multilabel" and self.labels.exclusive

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return codes for a softmax; for yes and no numbers in [0, 1] of this dtype."""
        codes = self.labels.encode(y)
        if self.loss_function.task == "classification":
            return codes
        smoothing = self.label_smoothing
        targets: Array = (1 - smoothing) * codes.astype(dtype) + smoothing / 2
        return targets

    def decode(self, targets: Array) -> Any:
        """Return labels as they were given."""
        return self.labels.decode(self._codes(targets))

    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs."""
        return 1 if self.has_one_logit else len(self.labels.classes)

    def decide(self, outputs: Array) -> Any:
        """Return labels as they were given, for the model's outputs."""
        codes = self.loss_function.predict_targets(outputs)
        if self.labels.exclusive:  # with one class, one logit may say that it is the second
            codes = np.minimum(codes.reshape(-1), len(self.labels.classes) - 1)
        return self.labels.decode(codes)

    def strata(self, targets: Array) -> Array | None:
        """Return the classes of yes and no, in the form in which scikit-learn splits them."""
        return self._codes(targets)[:, None] > 0 if self.has_one_logit else None

    def weighted(self, rows: Rows, class_weight: Any) -> Rows:
        """Return the rows with the weights of their classes in their own.

        class_weight: factors by class, of which some may not occur in y, "balanced" or None.
        """
        if class_weight is None:
            return rows
        codes = self._codes(rows.y)
        n_classes = len(self.labels.classes)
        if not self.labels.exclusive:  # the product over the labels
            weight = compute_sample_weight(class_weight, codes)
        elif isinstance(class_weight, str):
            # Counted by weight, so that a weight of k remains a row given k times.
            counts = np.bincount(codes, rows.sample_weight, n_classes)
            shares = counts[codes] * np.count_nonzero(counts)
            weight = np.divide(counts.sum(), shares, out=np.zeros(len(codes)), where=shares > 0)
        else:
            classes = self.labels.classes.tolist()
            if class_weight and set(class_weight).isdisjoint(classes):
                raise ValueError(f"class_weight names {list(class_weight)}, none of {classes}")
            weight = np.array([class_weight.get(label, 1.0) for label in classes])[codes]
        weight = weight.astype(rows.X.dtype)
        return rows._replace(
            sample_weight=weight if rows.sample_weight is None else weight * rows.sample_weight
        )

    def _codes(self, targets: Array) -> Array:
        return targets if targets.dtype.kind == "i" else (targets > 0.5).astype(np.int64)
