"""Heads: each turns outputs and targets into (loss, dlogits), and outputs into predictions.

A head stands after the last layer in place of an output activation, so that the two cancel where
they would lose digits: no softmax is ever computed to have its logarithm taken. `HEADS` gives the
name of each in a YAML file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from minidl import kernels
from minidl.layers.activations import sigmoid
from minidl.layers.layer import Array

Share = Any  # w_i / total_weight: (n_samples,) in the dtype of the logits, or one float for all


class Head:
    """Loss and predictions for one kind of target; the base of all heads.

    loss       = sum_i w_i * l_i / total_weight
    dlogits_ij = d loss / d logits_ij

    logits, dlogits: (n_samples, n_outputs), one dtype.  l_i: the loss of row i.  w_i: 1, or
    sample_weight[i], (n_samples,).  total_weight: sum_i w_i, or where a batch is split in shards
    that of the whole batch: then the losses and gradients of the shards add up to the batch's.
    Rows without any weight give a loss and gradients of 0.  Nothing given is modified.
    """

    task: ClassVar[Literal["classification", "multilabel", "regression"]]

    def __call__(
        self,
        logits: Array,
        targets: Array,
        sample_weight: Array | None = None,
        total_weight: float | None = None,
    ) -> tuple[float, Array]:
        """Return the mean loss and its gradient with respect to the logits."""
        weights = self._weights(targets, sample_weight)
        if total_weight is None:
            total_weight = float(len(logits) if weights is None else np.add.reduce(weights))
        share = 1.0 / total_weight if total_weight else 0.0
        if weights is None:
            losses, dlogits = self._rows(logits, targets, share)
        else:
            losses, dlogits = self._rows(logits, targets, (weights * share).astype(logits.dtype))
            losses = losses * weights
        return float(np.add.reduce(losses, dtype=np.float64)) * share, dlogits

    def total_weight(self, targets: Array, sample_weight: Array | None = None) -> float:
        """Return sum_i w_i, the divisor that the shards of a batch share."""
        weights = self._weights(targets, sample_weight)
        return float(len(targets) if weights is None else np.add.reduce(weights))

    def predict(self, logits: Array) -> Array:
        """Return what the outputs mean: probabilities, or values in the unit of the targets."""
        return logits

    def n_outputs(self, targets: Array) -> int:
        """Return the number of outputs that a model of these targets needs."""
        return 1 if targets.ndim == 1 else targets.shape[1]

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError, naming a row and its value, unless the targets fit the outputs.

        To be called once for each set of targets; no step pays for it.
        """
        if self.n_outputs(targets) != n_outputs:
            raise ValueError(
                f"targets of shape {targets.shape} need {self.n_outputs(targets)} outputs, "
                f"not {n_outputs}"
            )
        _require_targets(np.isfinite(targets), targets, "must be finite")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return figures of merit by name, each a mean over the rows weighted by sample_weight."""
        raise NotImplementedError

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        return None if sample_weight is None else np.asarray(sample_weight, np.float64)

    def _rows(self, logits: Array, targets: Array, share: Share) -> tuple[Array, Array]:
        """Return l_i, (n_samples,), and share_i * d l_i / d logits."""
        raise NotImplementedError


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Head):
    """Negative log-likelihood of one class out of several.

    l_i      = log(sum_j exp(z_ij)) - sum_j t_ij * z_ij
    dlogits  = (softmax(z_i) - t_i) * w_i / total_weight
    t_ij     = (1 - label_smoothing) * [j = label_i] + label_smoothing / n_classes

    targets: labels 0 to n_classes - 1, (n_samples,), or soft targets t, (n_samples, n_classes),
    whose rows are at least 0 and sum to 1; they are smoothed in the same way.
    class_weight: one factor a class for w_i (for soft targets, their mean under t_i).
    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """

    label_smoothing: float = 0.0
    class_weight: Sequence[float] | None = None

    task = "classification"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.class_weight is not None:
            factors = np.asarray(self.class_weight, np.float64)
            if factors.ndim != 1 or not np.all((factors >= 0) & (factors < np.inf)):
                raise ValueError(
                    f"class_weight must be one number >= 0 a class, got {self.class_weight}"
                )

    def __call__(
        self,
        logits: Array,
        targets: Array,
        sample_weight: Array | None = None,
        total_weight: float | None = None,
    ) -> tuple[float, Array]:
        """Return the mean loss and its gradient with respect to the logits."""
        if sample_weight is None and self.class_weight is None:
            share = 1.0 / (len(logits) if total_weight is None else total_weight)
            fused = kernels.softmax_cross_entropy(logits, targets, self.label_smoothing, share)
            if fused is not None:
                return fused[0] * share, fused[1]
        return super().__call__(logits, targets, sample_weight, total_weight)

    def predict(self, logits: Array) -> Array:
        """Return the probability of each class, (n_samples, n_classes)."""
        p = np.subtract(logits, np.maximum.reduce(logits, 1, keepdims=True))
        np.exp(p, out=p)
        return np.divide(p, np.add.reduce(p, 1, keepdims=True), out=p)

    def n_outputs(self, targets: Array) -> int:
        """Return the number of classes: the largest label plus one where targets are labels."""
        return targets.shape[1] if targets.ndim == 2 else int(np.max(targets, initial=0)) + 1

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless labels are whole numbers in range, or soft rows sum to 1."""
        if self.class_weight is not None and len(self.class_weight) != n_outputs:
            raise ValueError(
                f"class_weight has {len(self.class_weight)} numbers for {n_outputs} classes"
            )
        if targets.ndim == 2:
            super().check_targets(targets, n_outputs)
            fits = np.all(targets >= 0, axis=1) & (np.abs(targets.sum(axis=1) - 1) < 1e-3)
            _require_targets(fits, targets, "must be at least 0 and sum to 1")
        elif not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(f"targets must be integers where they are labels, got {targets.dtype}")
        else:
            fits = (targets >= 0) & (targets < n_outputs)
            _require_targets(fits, targets, f"must be a class from 0 to {n_outputs - 1}")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return "accuracy"; with soft targets the most likely class is the right one."""
        labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
        return {"accuracy": _mean(logits.argmax(axis=1) == labels, sample_weight)}

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        weights = super()._weights(targets, sample_weight)
        if self.class_weight is None:
            return weights
        factors = np.asarray(self.class_weight, np.float64)
        by_class = factors[targets] if targets.ndim == 1 else targets @ factors
        return by_class if weights is None else weights * by_class

    def _rows(self, logits: Array, targets: Array, share: Share) -> tuple[Array, Array]:
        n, k = logits.shape
        smoothing = self.label_smoothing
        # Classes are few and rows many: along the rows every reduction is a run over memory.
        z = logits.T.copy()
        z -= np.maximum.reduce(z, 0)
        if targets.ndim == 1:
            places = np.multiply(targets, n, dtype=np.intp)
            places += np.arange(n)
            fit = z.take(places)
        else:
            t = targets.T.astype(z.dtype)
            fit = np.einsum("ji,ji->i", t, z)
        if smoothing:
            fit *= 1 - smoothing
            fit += (smoothing / k) * np.add.reduce(z, 0)

        p = np.exp(z, out=z)
        total = np.add.reduce(p, 0)
        p *= share / total
        if smoothing:
            p -= (smoothing / k) * share
            share = (1 - smoothing) * share
        if targets.ndim == 1:
            p.reshape(-1)[places] -= share
        else:
            p -= t * share
        return np.log(total, out=total) - fit, p.T.copy()


class ElementwiseHead(Head):
    """A head whose loss is that of each output by itself; rows take their mean over the outputs.

    targets: (n_samples,) for one output, or (n_samples, n_outputs).
    """

    def _rows(self, logits: Array, targets: Array, share: Share) -> tuple[Array, Array]:
        losses, slopes = self._elementwise(logits, _columns(targets, logits.dtype))
        per_output = self._per_output(logits.shape[1])
        slopes *= np.multiply(share, per_output, dtype=slopes.dtype).reshape(-1, 1)
        return np.add.reduce(losses, 1) * per_output, slopes

    def _per_output(self, n_outputs: int) -> float:
        return 1.0 / n_outputs

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        """Return the loss of each output and its derivative by z, both new (n_samples, n)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SigmoidCrossEntropy(ElementwiseHead):
    """Negative log-likelihood of yes or no: a binary target, or several labels at once.

    l_i     = sum_j log(1 + exp(z_ij)) - t_ij * z_ij
    dlogits = (sigmoid(z) - t) * w_i / total_weight

    targets: 0, 1 or a probability between; (n_samples,) or (n_samples, n_labels).  The sum over
    labels is the log-likelihood of the whole row, as in scikit-learn; PyTorch takes the mean.
    """

    task = "multilabel"

    def predict(self, logits: Array) -> Array:
        """Return the probability of each label, (n_samples, n_labels)."""
        return sigmoid(logits)

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless all targets are between 0 and 1."""
        super().check_targets(targets, n_outputs)
        _require_targets((targets >= 0) & (targets <= 1), targets, "must be between 0 and 1")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return "accuracy", of rows with every label right; for several labels also "f1".

        f1 = 2 * hits / (2 * hits + misses + false alarms), counted over all labels together, and 0
        where there is no hit.
        """
        found, true = logits > 0, _columns(targets, np.float64) > 0.5
        figures = {"accuracy": _mean(np.all(found == true, axis=1), sample_weight)}
        if logits.shape[1] > 1:
            hits = _mean(np.sum(found & true, axis=1), sample_weight)
            marks = _mean(np.sum(found, axis=1) + np.sum(true, axis=1), sample_weight)
            figures["f1"] = 2 * hits / marks if hits else 0.0
        return figures

    def _per_output(self, n_outputs: int) -> float:
        return 1.0

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        # log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)), and for t = 1 nothing is lost near 0
        losses = np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))
        return losses, sigmoid(z) - t


class RegressionHead(ElementwiseHead):
    """A head for numbers; its metrics are those of regression."""

    task = "regression"

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return "r2", "rmse" and "mae" of the predictions, the mean over several outputs.

        r2 = 1 - (mean squared error) / (variance of the targets); where all targets are equal, 1
        for predictions without error and else 0, as in scikit-learn.
        """
        y, t = self.predict(logits).astype(np.float64), _columns(targets, np.float64)
        squares = _mean(np.square(y - t), sample_weight, axis=0)
        variances = _mean(np.square(t - _mean(t, sample_weight, axis=0)), sample_weight, axis=0)
        unexplained = np.where(squares > 0, 1.0, 0.0)
        np.divide(squares, variances, out=unexplained, where=variances > 0)
        return {
            "r2": float(np.mean(1 - unexplained)),
            "rmse": float(np.mean(np.sqrt(squares))),
            "mae": float(np.mean(_mean(np.abs(y - t), sample_weight, axis=0))),
        }


@dataclass(frozen=True)
class MSE(RegressionHead):
    """Mean squared error, over rows and outputs.

    l_i     = mean_j (z_ij - t_ij)**2
    dlogits = 2 / n_outputs * (z - t) * w_i / total_weight

    No factor 1/2, as in PyTorch; scikit-learn's MLP has one.
    """

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return e * e, 2 * e


@dataclass(frozen=True)
class MAE(RegressionHead):
    """Mean absolute error, over rows and outputs; predicts medians.

    l_i     = mean_j |z_ij - t_ij|
    dlogits = sign(z - t) / n_outputs * w_i / total_weight
    """

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return np.abs(e), np.sign(e)


@dataclass(frozen=True)
class Huber(RegressionHead):
    """Half the squared error up to `delta`, and beyond it a straight line: robust to outliers.

    l_i     = mean_j e**2 / 2 where |e| <= delta, else delta * (|e| - delta / 2);  e = z_ij - t_ij
    dlogits = min(max(e, -delta), delta) / n_outputs * w_i / total_weight

    Huber, Robust Estimation of a Location Parameter, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < np.inf:
            raise ValueError(f"delta must be positive, got {self.delta}")

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        slopes = np.clip(e, -self.delta, self.delta)
        return slopes * (e - slopes / 2), slopes


@dataclass(frozen=True)
class Quantile(RegressionHead):
    """Pinball loss: predicts the value that a share `quantile` of the targets stays below.

    l_i     = mean_j max(q * (t - z), (1 - q) * (z - t))
    dlogits = ((1 - q) where z > t, -q where z < t, 0 where equal) / n_outputs * w_i / total_weight

    quantile: q in (0, 1); or several, then output j predicts the j-th of a single target.
    Koenker and Bassett, Regression Quantiles, 1978.
    """

    quantile: float | Sequence[float] = 0.5

    def __post_init__(self) -> None:
        if not np.size(self.quantile) or not np.all((0 < self._q) & (self._q < 1)):
            raise ValueError(f"quantile must be in (0, 1), got {self.quantile}")

    @property
    def _q(self) -> Array:
        return np.asarray(self.quantile, np.float64)

    def n_outputs(self, targets: Array) -> int:
        """Return the number of targets, or of quantiles where there are several."""
        n_targets = super().n_outputs(targets)
        if self._q.ndim and n_targets > 1:
            raise ValueError(f"quantile must be one number for {n_targets} targets")
        return self._q.size if self._q.ndim else n_targets

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return "coverage", the share of targets at or below the prediction, and "mae".

        For several quantiles, "coverage" is that of the interval from the first to the last.
        """
        t = _columns(targets, logits.dtype)
        below = t <= logits
        if self._q.ndim and self._q.size > 1:
            below = below[:, -1:] & (t >= logits[:, :1])
        return {
            "coverage": _mean(np.mean(below, axis=1), sample_weight),
            "mae": _mean(np.mean(np.abs(logits - t), axis=1, dtype=np.float64), sample_weight),
        }

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        slopes = ((e > 0) - self._q * (e != 0)).astype(z.dtype)
        return slopes * e, slopes


@dataclass(frozen=True)
class Poisson(RegressionHead):
    """Half the Poisson deviance of counts or rates, with the logarithm as link.

    l_i     = mean_j m - t + t * log(t / m);   m = exp(z)
    dlogits = (m - t) / n_outputs * w_i / total_weight

    targets: at least 0.  Above z = 60 the exponential goes on along its tangent, so that loss and
    gradient stay finite.  McCullagh and Nelder, Generalized Linear Models, 1989, chapter 6.
    """

    largest: ClassVar[float] = 60.0

    def predict(self, logits: Array) -> Array:
        """Return the expected count, exp(logits)."""
        return np.exp(np.minimum(logits, self.largest))

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless all targets are at least 0."""
        super().check_targets(targets, n_outputs)
        _require_targets(targets >= 0, targets, "must be at least 0")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Array | None = None
    ) -> dict[str, float]:
        """Return "deviance", twice the loss, and the metrics of regression."""
        deviance = 2 * self(logits.astype(np.float64), targets, sample_weight)[0]
        return {"deviance": deviance, **super().metrics(logits, targets, sample_weight)}

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        m = self.predict(z)
        entropy = t * np.log(np.where(t > 0, t, 1))
        return m * (1 + np.maximum(z - self.largest, 0)) - t - t * z + entropy, m - t


HEADS: dict[str, type[Head]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "quantile": Quantile,
    "poisson": Poisson,
}


def _columns(targets: Array, dtype: Any) -> Array:
    """Targets as (n_samples, n_targets)."""
    targets = targets.astype(dtype, copy=False)
    return targets[:, None] if targets.ndim == 1 else targets


def _mean(values: Any, sample_weight: Array | None, axis: int | None = None) -> Any:
    mean = np.average(values, axis=axis, weights=sample_weight)
    return float(mean) if axis is None else mean


def _require_targets(fits: Array, targets: Array, expected: str) -> None:
    bad = np.flatnonzero(~(fits if fits.ndim == 1 else np.all(fits, axis=1)))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"targets {expected}, but row {row} is {targets[row]}")
