"""Losses for classes: one of several, or yes and no."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl import kernels
from minidl.errors import ParameterError, require
from minidl.kernels import Array
from minidl.layers.activations import sigmoid
from minidl.losses.loss import Loss, Names, Share, Weights, columns, require_targets
from minidl.losses.metrics import class_metrics, mean_roc_auc, weighted_mean


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Negative log-likelihood of one class out of several.

    l_i      = log(sum_j exp(z_ij)) - sum_j t_ij * z_ij
    dlogits  = (softmax(z_i) - t_i) * w_i / total_weight
    t_ij     = (1 - label_smoothing) * [j = label_i] + label_smoothing / n_classes

    targets: labels 0 to n_classes - 1, (n_samples,), or soft targets t, (n_samples, n_classes),
    whose rows are at least 0 and sum to 1; they are smoothed in the same way.
    class_weight: one factor c_j a class; row i counts w_i = c_label_i, or w_i = sum_j t_ij * c_j
    for soft targets.  The factor weighs the whole row, also its smoothed part, as a sample weight
    in scikit-learn does.  PyTorch weighs the terms of the sum: l_i = -sum_j c_j * t_ij * log p_ij,
    divided by sum_i c_label_i for labels and by n_samples for soft targets.  Without smoothing,
    and with labels, both are the same.
    Label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """

    label_smoothing: float = 0.0
    class_weight: Sequence[float] | None = None

    task = "classification"
    metric_names = ("accuracy", "balanced_accuracy", "macro_f1")
    extra_metric_names = ("roc_auc", "log_loss", "brier")

    def __post_init__(self) -> None:
        require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        if self.class_weight is not None:
            factors = np.asarray(self.class_weight, np.float64)
            usable = factors.ndim == 1 and bool(np.all((factors >= 0) & (factors < np.inf)))
            require("class_weight", self.class_weight, usable, "one number >= 0 for each class")

    def predict(self, logits: Array) -> Array:
        """Return the probability of each class, (n_samples, n_classes)."""
        return kernels.softmax(logits)

    def predict_targets(self, logits: Array) -> Array:
        """Return the place of the most likely class, (n_samples,)."""
        places: Array = logits.argmax(axis=1)
        return places

    def n_outputs(self, targets: Array) -> int:
        """Return the number of classes: the largest label plus one where targets are labels."""
        return targets.shape[1] if targets.ndim == 2 else int(np.max(targets, initial=0)) + 1

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless labels are whole numbers in range, or soft rows sum to 1."""
        if self.class_weight is not None and len(self.class_weight) != n_outputs:
            raise ParameterError(
                "class_weight", f"has {len(self.class_weight)} numbers for {n_outputs} classes"
            )
        if targets.ndim == 2:
            super().check_targets(targets, n_outputs)
            fits = np.all(targets >= 0, axis=1) & (np.abs(targets.sum(axis=1) - 1) < 1e-3)
            require_targets(fits, targets, "must be at least 0 and sum to 1")
        elif not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(f"targets must be integers where they are labels, got {targets.dtype}")
        else:
            fits = (targets >= 0) & (targets < n_outputs)
            require_targets(fits, targets, f"must be a class from 0 to {n_outputs - 1}")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Weights = None, extra: Names = ()
    ) -> dict[str, float]:
        """Return the metrics of `class_metrics`, and of these what `extra` names.

        roc_auc  = mean over the classes of the area under the ROC curve, class against the rest
        log_loss = mean_i -sum_j t_ij * log p_ij, without smoothing and class weights
        brier    = mean_i sum_j (p_ij - t_ij)**2, and half of it for two classes

        p = predict(logits).  In soft targets the most likely class counts as the label, except for
        log_loss and brier.
        """
        is_hard, n_classes = targets.ndim == 1, logits.shape[1]
        labels = targets if is_hard else targets.argmax(axis=1)
        figures = class_metrics(labels, self.predict_targets(logits), n_classes, sample_weight)
        if extra:
            z, one_hot = logits.astype(np.float64), np.arange(n_classes) == labels[:, None]
            p, t = self.predict(z), one_hot if is_hard else targets
        if "roc_auc" in extra:
            figures["roc_auc"] = mean_roc_auc(p, one_hot, sample_weight)
        if "log_loss" in extra:
            figures["log_loss"] = SoftmaxCrossEntropy()(z, targets, sample_weight)[0]
        if "brier" in extra:
            errors = np.square(p - t).sum(axis=1) / (2 if n_classes == 2 else 1)
            figures["brier"] = weighted_mean(errors, sample_weight)
        return figures

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        weights = super()._weights(targets, sample_weight)
        if self.class_weight is None:
            return weights
        factors = np.asarray(self.class_weight, np.float64)
        by_class = factors[targets] if targets.ndim == 1 else targets @ factors
        return by_class if weights is None else weights * by_class

    def _in_c(self, logits: Array, targets: Array, share: float) -> tuple[float, Array] | None:
        if type(self) is not SoftmaxCrossEntropy:  # a subclass may have another `_rows`
            return None
        return kernels.softmax_cross_entropy(logits, targets, self.label_smoothing, share)

    def _rows(self, logits: Array, targets: Array, share: Share) -> tuple[Array, Array]:
        n, k = logits.shape
        smoothing = self.label_smoothing
        # Classes are few and rows many: along the rows every reduction is a run over memory.
        z = logits.T.copy()
        z -= np.maximum.reduce(z, 0)
        if targets.ndim == 1:
            if targets.size and not 0 <= targets.min() <= targets.max() < k:
                raise ValueError(
                    f"labels must be from 0 to {k - 1}, got {targets.min()} to {targets.max()}"
                )
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


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """Negative log-likelihood of yes or no: a binary target, or several labels at once.

    l_i     = sum_j log(1 + exp(z_ij)) - t_ij * z_ij
    dlogits = (sigmoid(z) - t) * w_i / total_weight

    targets: 0, 1 or a probability between; (n_samples,) or (n_samples, n_labels).  The sum over
    labels is the log-likelihood of the whole row, as in scikit-learn.  PyTorch's BCEWithLogitsLoss
    takes the mean over the labels, too: l_i = mean_j ..., smaller by a factor of n_labels.
    """

    task = "multilabel"
    metric_names = ("accuracy", "balanced_accuracy", "f1", "macro_f1")
    extra_metric_names = ("roc_auc", "brier")
    adds_outputs = True

    def predict(self, logits: Array) -> Array:
        """Return the probability of each label, (n_samples, n_labels)."""
        return sigmoid(logits)

    def predict_targets(self, logits: Array) -> Array:
        """Return 1 for each label whose probability is above one half, else 0."""
        return (logits > 0).astype(np.int64)

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless all targets are between 0 and 1."""
        super().check_targets(targets, n_outputs)
        require_targets((targets >= 0) & (targets <= 1), targets, "must be between 0 and 1")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Weights = None, extra: Names = ()
    ) -> dict[str, float]:
        """Return "accuracy", "balanced_accuracy", "f1" and "macro_f1", and what `extra` names.

        accuracy          = share of rows with every label right
        balanced_accuracy = mean of each label's balanced accuracy (see `class_metrics`)
        f1                = 2 * hits / (2 * hits + misses + false alarms), over all labels together
        macro_f1          = mean of each label's f1; for a single label, of the f1 of yes and of no
        roc_auc           = mean of each label's area under the ROC curve
        brier             = mean of (p - t)**2;   p = predict(logits)

        An f1 without a hit is 0.  Targets between 0 and 1 count as 1 above one half.
        """
        found, true = logits > 0, columns(targets, np.float64) > 0.5
        pairs = zip(true.T.astype(np.intp), found.T.astype(np.intp), strict=True)
        each = [class_metrics(t, f, 2, sample_weight) for t, f in pairs]
        hits = weighted_mean(found & true, sample_weight, axis=0)
        marks = weighted_mean(np.add(found, true, dtype=np.intp), sample_weight, axis=0)
        f1 = 2 * hits / np.where(marks > 0, marks, 1)
        figures = {
            "accuracy": weighted_mean(np.all(found == true, axis=1), sample_weight),
            "balanced_accuracy": float(np.mean([one["balanced_accuracy"] for one in each])),
            "f1": float(2 * hits.sum() / marks.sum()) if hits.any() else 0.0,
            "macro_f1": each[0]["macro_f1"] if len(each) == 1 else float(np.mean(f1)),
        }
        if "roc_auc" in extra:
            figures["roc_auc"] = mean_roc_auc(logits, true, sample_weight)
        if "brier" in extra:
            errors = self.predict(logits.astype(np.float64)) - columns(targets, np.float64)
            figures["brier"] = weighted_mean(np.mean(errors * errors, axis=1), sample_weight)
        return figures

    def _in_c(self, logits: Array, targets: Array, share: float) -> tuple[float, Array] | None:
        if type(self) is not SigmoidCrossEntropy:  # a subclass may have another `_elementwise`
            return None
        return kernels.sigmoid_cross_entropy(logits, columns(targets, logits.dtype), share)

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        # log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)), and for t = 1 nothing is lost near 0
        losses = np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))
        return losses, sigmoid(z) - t
