"""Metrics of predictions, with bootstrap intervals; all of them are scikit-learn's.

A metric's interval holds 95 % of its values on resampled rows.  The resamples are drawn from a
fixed seed, so equal predictions give equal intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from minidl.kernels import Array

N_RESAMPLES = 200
MOST_ROWS = 2000  # of a resample
N_BINS = 10  # of the calibration error
UNEVEN = 3.0  # times as many rows in the largest class as in the smallest

Metric = Callable[[Array, Array], float]  # of targets and predictions


@dataclass(frozen=True)
class Measures:
    """Metrics of predictions for rows whose targets are known.

    values: metric -> its value.  intervals: metric -> (low, high), 95 %.  A metric that these rows
    do not define (ROC AUC where one class is missing) is left out.
    per_class: one dict a class with precision, recall, f1 and n_samples, in the order of the class
    numbers.  confusion: counts, one row a true class, one column a predicted one.  Both are empty
    for a regression.
    headline: the metric to judge by: accuracy, or balanced accuracy where classes are uneven; R2.
    """

    n_samples: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    headline: str
    per_class: list[dict[str, float]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)

    def as_dict(self, classes: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return plain values for JSON; `classes` are the labels of the class numbers."""
        labels = range(len(self.per_class)) if classes is None else classes
        described: dict[str, Any] = {
            "n_samples": self.n_samples,
            "metrics": {
                name: {"value": value, "interval": list(self.intervals.get(name, ()))}
                for name, value in self.values.items()
            },
        }
        if self.confusion:
            described["classes"] = [
                {"label": str(label), **figures}
                for label, figures in zip(labels, self.per_class, strict=True)
            ]
            described["confusion_matrix"] = self.confusion
        return described


def measure_classification(
    labels: Array, probabilities: Array, *, intervals_of: Collection[str] | None = None
) -> Measures:
    """Measure predicted probabilities.

    labels: class numbers 0 to n_classes - 1, (n_samples,).
    probabilities: (n_samples, n_classes); rows sum to 1.
    intervals_of: the metrics that need an interval, None for all; each takes 0.1 to 2 seconds.
    """
    labels, n_classes = np.asarray(labels), probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    numbers = np.arange(n_classes)
    precision, recall, f1, counts = sk.precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0.0
    )
    present = counts[counts > 0]
    uneven = present.max() > UNEVEN * present.min()
    values, intervals = _measured(CLASSIFICATION, labels, probabilities, intervals_of)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one class only
        confusion = sk.confusion_matrix(labels, predicted, labels=numbers)
    return Measures(
        len(labels),
        values,
        intervals,
        "balanced_accuracy" if uneven else "accuracy",
        [
            {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "n_samples": int(counts[k]),
            }
            for k in numbers
        ],
        confusion.tolist(),
    )


def measure_regression(
    targets: Array, predictions: Array, *, intervals_of: Collection[str] | None = None
) -> Measures:
    """Measure predictions; both arrays are (n_samples,) or (n_samples, n_targets).

    Several targets count alike.  intervals_of: as in `measure_classification`.
    """
    targets = np.asarray(targets, np.float64)
    predictions = np.asarray(predictions, np.float64).reshape(targets.shape)
    values, intervals = _measured(REGRESSION, targets, predictions, intervals_of)
    return Measures(len(targets), values, intervals, "r2")


def calibration_error(labels: Array, probabilities: Array) -> float:
    """Return the mean distance between the confidence of a prediction and its accuracy.

    The rows are put into bins of equal width by the probability of their predicted class:
    error = sum over bins of (rows of the bin / rows) * |accuracy - mean confidence|.
    Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    confidence = probabilities.max(axis=1).clip(0, 1)
    right = probabilities.argmax(axis=1) == labels
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=N_BINS, pos_label=True)
    inner_edges = np.linspace(0, 1, N_BINS + 1)[1:-1]
    rows = np.bincount(np.searchsorted(inner_edges, confidence), minlength=N_BINS)
    shares = rows[rows > 0] / len(labels)
    return float(np.sum(shares * np.abs(accuracy - mean_confidence)))


def _accuracy(labels: Array, probabilities: Array) -> float:
    return float(sk.accuracy_score(labels, probabilities.argmax(axis=1)))


def _balanced_accuracy(labels: Array, probabilities: Array) -> float:
    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    return float(sk.recall_score(labels, predicted, labels=present, average="macro"))


def _f1_macro(labels: Array, probabilities: Array) -> float:
    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    f1 = sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)
    return float(f1)


def _log_loss(labels: Array, probabilities: Array) -> float:
    if probabilities.shape[1] == 1:
        return 0.0
    return float(sk.log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def _roc_auc(labels: Array, probabilities: Array) -> float:
    n_classes = probabilities.shape[1]
    if n_classes == 1 or len(np.unique(labels)) < n_classes:
        return math.nan
    scores = probabilities[:, 1] if n_classes == 2 else probabilities
    return float(sk.roc_auc_score(labels, scores, multi_class="ovr"))


def _r2(targets: Array, predictions: Array) -> float:
    return float(sk.r2_score(targets, predictions)) if len(targets) > 1 else math.nan


def _mape(targets: Array, predictions: Array) -> float:
    if not np.all(targets):  # scikit-learn divides by 2e-16 where a target is 0
        return math.nan
    return float(sk.mean_absolute_percentage_error(targets, predictions))


# NaN stands for a metric that the rows do not define.
CLASSIFICATION: dict[str, Metric] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1_macro": _f1_macro,
    "log_loss": _log_loss,
    "roc_auc": _roc_auc,  # of more than two classes: the mean over the classes, each against all
    "calibration_error": calibration_error,
}
REGRESSION: dict[str, Metric] = {
    "r2": _r2,
    "rmse": lambda t, y: float(sk.root_mean_squared_error(t, y)),
    "mae": lambda t, y: float(sk.mean_absolute_error(t, y)),
    "median_absolute_error": lambda t, y: float(sk.median_absolute_error(t, y)),
    "mape": _mape,
}


def _values(metrics: Mapping[str, Metric], targets: Array, predictions: Array) -> dict[str, float]:
    values = {name: metric(targets, predictions) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _intervals(
    metrics: Mapping[str, Metric], values: Mapping[str, float], targets: Array, predictions: Array
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals from resamples of the rows, drawn with replacement.

    A resample has m = at most MOST_ROWS of the n rows; the deviations that it shows are then scaled
    by sqrt(m / n) (Bickel, Götze and van Zwet, Resampling fewer than n observations, 1997).
    """
    n = len(targets)
    m = min(n, MOST_ROWS)
    rng = np.random.default_rng(0)
    draws = [
        _values(metrics, targets[rows], predictions[rows])
        for rows in (rng.integers(0, n, m) for _ in range(N_RESAMPLES))
    ]
    intervals = {}
    for name in metrics.keys() & values.keys():
        found = [draw[name] for draw in draws if name in draw]
        if len(found) > N_RESAMPLES // 2:
            deviations = np.percentile(found, [2.5, 97.5]) - values[name]
            low, high = values[name] + deviations * math.sqrt(m / n)
            intervals[name] = (float(low), float(high))
    return intervals


def _measured(
    metrics: Mapping[str, Metric],
    targets: Array,
    predictions: Array,
    intervals_of: Collection[str] | None,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    chosen = {
        name: metric
        for name, metric in metrics.items()
        if intervals_of is None or name in intervals_of
    }
    fast = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with warnings.catch_warnings(), fast:
        warnings.simplefilter("ignore")  # a resample may lack a class
        values = _values(metrics, targets, predictions)
        found = _intervals(chosen, values, targets, predictions)
    return values, {name: found[name] for name in values if name in found}
