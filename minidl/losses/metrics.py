"""Metrics of predicted classes and scores, with NumPy alone; they agree with scikit-learn's."""

from typing import Any

import numpy as np

from minidl.kernels import Array


def weighted_mean(values: Any, sample_weight: Array | None, axis: int | None = None) -> Any:
    """Return the mean over `axis`, of rows that count by their weights."""
    mean = np.average(values, axis=axis, weights=sample_weight)
    return float(mean) if axis is None else mean


def class_metrics(
    labels: Array, predicted: Array, n_classes: int, sample_weight: Array | None = None
) -> dict[str, float]:
    """Return "accuracy", "balanced_accuracy" and "macro_f1" of predicted classes.

    balanced_accuracy = mean over the classes of (rows predicted right) / (rows of the class)
    macro_f1          = mean over the classes of 2 * right / (rows of the class + rows predicted)

    labels, predicted: (n_samples,), from 0 to n_classes - 1.  Each row counts by its weight, and
    classes that do not occur do not count.
    """
    w = np.ones(len(labels)) if sample_weight is None else sample_weight
    right = np.bincount(labels, weights=w * (labels == predicted), minlength=n_classes)
    true = np.bincount(labels, weights=w, minlength=n_classes)
    found = np.bincount(predicted, weights=w, minlength=n_classes)
    occur, either = true > 0, true + found > 0
    return {
        "accuracy": float(right.sum() / true.sum()),
        "balanced_accuracy": float(np.mean(right[occur] / true[occur])),
        "macro_f1": float(np.mean(2 * right[either] / (true + found)[either])),
    }


def roc_auc(scores: Array, positive: Array, sample_weight: Array | None = None) -> float:
    """Return the area under the ROC curve: the share of pairs of rows that the scores put right.

    A pair is a positive and a negative row; it is right where the positive one has the higher
    score, half right at equal scores, and counts by the product of the weights.

    scores, positive: (n_samples,).  NaN where all rows are positive, or none is.
    """
    w = np.ones(len(scores)) if sample_weight is None else sample_weight
    values, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place, weights=w * positive, minlength=len(values))
    negatives = np.bincount(place, weights=w * ~positive, minlength=len(values))
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float(np.sum(positives * (below + negatives / 2)) / pairs) if pairs else float("nan")


def mean_roc_auc(scores: Array, positive: Array, sample_weight: Array | None = None) -> float:
    """Return the mean of `roc_auc` over the columns that have positive and negative rows.

    scores, positive: (n_samples, n_columns).  With a column a class that is the one-versus-rest
    average of Provost and Domingos, 2001, over classes of equal weight.
    """
    areas = [roc_auc(s, p, sample_weight) for s, p in zip(scores.T, positive.T, strict=True)]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")
