"""What an estimator does with its targets: to the numbers of a loss function, and back.

`Targets` are numbers; `ClassTargets` answer the same questions for classes, so that one fit serves
classification and regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from minidl.data.batches import Rows
from minidl.estimators.building import chosen
from minidl.estimators.labels import Labels
from minidl.kernels import Array
from minidl.losses import MSE, Loss, Poisson, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.regression import ScaledLoss


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
    labels: of classes.
    """

    loss_function: Loss
    activation: str
    score_name: str
    labels: Labels | None = None

    @classmethod
    def of_numbers(cls, loss: str | Mapping[str, Any]) -> Self:
        """Return the targets for a regressor's `loss`.  Raises ValueError for one of classes."""
        own = OWN_LOSSES.get(loss) if isinstance(loss, str) else None
        loss_function = own or chosen("loss", loss).build()
        if loss_function.task != "regression":
            raise ValueError(f"loss must be one for regression, got {loss!r}")
        activation = "exp" if loss == "poisson" else "identity"
        return cls(loss_function, activation, "loss" if own is None else "r2")

    @property
    def indicator(self) -> bool:
        """Whether y is a matrix with a mark for each class."""
        return self.labels is not None and self.labels.indicator

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
        """Return y as it was given, from what `encode` returned."""
        return targets

    def count_outputs(self, targets: Array) -> int:
        """Return the number of outputs that the model needs."""
        return self.loss_function.n_outputs(targets)

    def decide(self, outputs: Array) -> Any:
        """Return predictions, in the form of y, for the model's outputs."""
        values = self.loss_function.predict(outputs)
        return values[:, 0] if values.shape[1] == 1 else values

    def loss_scale(self, n_outputs: int) -> float:
        """Return the factor from the loss function's loss to the one that is reported.

        That of 'squared_error' is a sum over the outputs, reported as their mean.
        """
        return 1 / n_outputs if isinstance(self.loss_function, HalfSquaredError) else 1.0

    def strata(self, targets: Array) -> Array | None:
        """Return what a split keeps the shares of."""
        return None

    def weighted(self, rows: Rows, class_weight: Any) -> Rows:
        """Return the rows with the weights of their classes in their own."""
        return rows

    def fitted(self, targets: Array) -> Self:
        """Return the targets with what the loss function takes from the training targets."""
        return replace(self, loss_function=self.loss_function.fitted(targets))

    def in_units_of(self, loss_function: Loss) -> Self:
        """Return the targets with what the loss function of an earlier fit took from its own."""
        return replace(self, loss_function=self.loss_function.with_scale_of(loss_function))


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
            loss_function = chosen("loss", loss).build()
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
    def has_one_logit(self) -> bool:
        """Whether one output stands for two classes."""
        return self.loss_function.task == "multilabel" and self.labels.exclusive

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return codes for a softmax; for yes and no numbers in [0, 1] of this dtype."""
        codes = self.labels.encode(y)
        if self.loss_function.task == "classification":
            return codes
        smoothing = self.label_smoothing
        return np.asarray((1 - smoothing) * codes.astype(dtype) + smoothing / 2)

    def decode(self, targets: Array) -> Any:
        """Return labels as they were given."""
        return self.labels.decode(_codes(targets))

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
        return _codes(targets)[:, None] > 0 if self.has_one_logit else None

    def weighted(self, rows: Rows, class_weight: Any) -> Rows:
        """Return the rows with the weights of their classes in their own."""
        if class_weight is None:
            return rows
        own = rows.sample_weight
        weight = self.labels.weights(_codes(rows.y), class_weight, own).astype(rows.X.dtype)
        return Rows(rows.X, rows.y, weight if own is None else weight * own)


def _codes(targets: Array) -> Array:
    return targets if targets.dtype.kind == "i" else (targets > 0.5).astype(np.int64)
