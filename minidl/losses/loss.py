"""What every loss function promises, and what losses share."""

from collections.abc import Collection
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from minidl.errors import require_instance
from minidl.kernels import Array
from minidl.losses.metrics import weighted_mean

Share = Any  # w_i / total_weight: (n_samples,) in the dtype of the logits, or one float for all
Weights: TypeAlias = Array | None  # of rows, (n_samples,); None for 1 each
Names = Collection[str]


class Loss:
    """Loss and predictions for one kind of target; the base of all losses.

    loss       = sum_i w_i * l_i / total_weight
    dlogits_ij = d loss / d logits_ij

    logits, dlogits: (n_samples, n_outputs), one dtype.  l_i: the loss of row i.  w_i: 1, or
    sample_weight[i], (n_samples,).  total_weight: sum_i w_i, or where a batch is split in shards
    that of the whole batch: then the losses and gradients of the shards add up to the batch's.
    Rows without any weight give a loss and gradients of 0.  Nothing given is modified.

    Subclasses write `_elementwise`, the loss of each output by itself; l_i is the mean over the
    outputs, or their sum where `adds_outputs`. A loss that mixes outputs writes `_rows` instead.
    What is not said otherwise is that of a regression.
    """

    task: ClassVar[Literal["classification", "multilabel", "regression"]] = "regression"
    # The metrics by which models can be compared: those that `metrics` always gives, and those that
    # take longer and are given when they are asked for.
    metric_names: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")
    extra_metric_names: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[frozenset[str]] = frozenset(  # of "loss" and the metrics of all
        {"loss", "rmse", "mae", "deviance", "log_loss", "brier"}
    )
    adds_outputs: ClassVar[bool] = False

    def __call__(
        self,
        logits: Array,
        targets: Array,
        sample_weight: Array | None = None,
        total_weight: float | None = None,
    ) -> tuple[float, Array]:
        """Return the mean loss and its gradient with respect to the logits."""
        require_instance("targets", targets, np.ndarray)
        weights = self._weights(targets, sample_weight)
        if total_weight is None:
            total_weight = float(len(logits) if weights is None else np.add.reduce(weights))
        share = 1.0 / total_weight if total_weight else 0.0
        if weights is None:
            done = self._in_c(logits, targets, share)
            if done is not None:
                return done[0] * share, done[1]
            losses, dlogits = self._rows(logits, targets, share)
        else:
            losses, dlogits = self._rows(logits, targets, (weights * share).astype(logits.dtype))
            losses = losses * weights
        return float(np.add.reduce(losses, dtype=np.float64)) * share, dlogits

    def total_weight(self, targets: Array, sample_weight: Array | None = None) -> float:
        """Return sum_i w_i, the divisor that the shards of a batch share."""
        weights = self._weights(targets, sample_weight)
        return float(len(targets) if weights is None else np.add.reduce(weights))

    def fitted(self, targets: Array) -> Self:
        """Return the loss with what it takes from the training targets, once, before training."""
        return self

    def predict(self, logits: Array) -> Array:
        """Return what the outputs mean: probabilities, or values in the unit of the targets."""
        return logits

    def predict_targets(self, logits: Array) -> Array:
        """Return predictions in the form of the targets.

        The most likely class, (n_samples,); 0 or 1 for each label; or the predicted values.
        """
        return self.predict(logits)

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
        require_targets(np.isfinite(targets), targets, "must be finite")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Weights = None, extra: Names = ()
    ) -> dict[str, float]:
        """Return the metrics by name; each row counts by its sample_weight.

        For numbers: "r2", "rmse" and "mae" of the predictions, the mean over several outputs.
        r2 = 1 - (mean squared error) / (variance of the targets); where all targets are equal, 1
        for predictions without error and else 0, as in scikit-learn.

        extra: which of `extra_metric_names` are wanted, too. NaN: the rows do not define a metric.
        """
        y, t = self.predict(logits).astype(np.float64), columns(targets, np.float64)
        squares = weighted_mean(np.square(y - t), sample_weight, axis=0)
        means = weighted_mean(t, sample_weight, axis=0)
        variances = weighted_mean(np.square(t - means), sample_weight, axis=0)
        unexplained = np.where(squares > 0, 1.0, 0.0)
        np.divide(squares, variances, out=unexplained, where=variances > 0)
        return {
            "r2": float(np.mean(1 - unexplained)),
            "rmse": float(np.mean(np.sqrt(squares))),
            "mae": float(np.mean(weighted_mean(np.abs(y - t), sample_weight, axis=0))),
        }

    @classmethod
    def figure_names(cls) -> tuple[str, ...]:
        """Return "loss" and the names of all metrics by which models can be compared."""
        return ("loss", *cls.metric_names, *cls.extra_metric_names)

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        return None if sample_weight is None else np.asarray(sample_weight, np.float64)

    def _in_c(self, logits: Array, targets: Array, share: float) -> tuple[float, Array] | None:
        """Return sum_i l_i and share * d l_i / d logits, or None without a compiled kernel."""
        return None

    def _rows(self, logits: Array, targets: Array, share: Share) -> tuple[Array, Array]:
        """Return l_i, (n_samples,), and share_i * d l_i / d logits."""
        losses, slopes = self._elementwise(logits, self._in_units(targets, logits.dtype))
        per_output = 1.0 if self.adds_outputs else 1.0 / logits.shape[1]
        slopes *= np.multiply(share, per_output, dtype=slopes.dtype).reshape(-1, 1)
        return np.add.reduce(losses, 1) * per_output, slopes

    def _in_units(self, targets: Array, dtype: Any) -> Array:
        """Return what the outputs are compared with, (n_samples, n_targets)."""
        return columns(targets, dtype)

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        """Return the loss of each output and its derivative by z, both new (n_samples, n)."""
        raise NotImplementedError


def columns(targets: Array, dtype: Any) -> Array:
    """Targets as (n_samples, n_targets)."""
    targets = targets.astype(dtype, copy=False)
    return targets[:, None] if targets.ndim == 1 else targets


def require_targets(fits: Array, targets: Array, expected: str) -> None:
    """Raise ValueError with the first row of the targets that does not fit."""
    bad = np.flatnonzero(~(fits if fits.ndim == 1 else np.all(fits, axis=1)))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"targets {expected}, but row {row} is {targets[row]}")
