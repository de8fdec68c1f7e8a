"""Metrics of predictions for rows whose targets are known, with bootstrap intervals."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn import metrics as sk

from minidl.evaluation import class_probabilities, loss_and_metrics
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.terminal import cell_text

N_RESAMPLES = 200
MOST_ROWS = 2000  # of a resample
N_BINS = 10  # of the calibration error
UNEVEN = 3.0  # times as many rows in the largest class as in the smallest
HEADLINES = ("r2", "macro_f1", "coverage")  # where there is no accuracy of single classes
NAMES = {"r2": "R²", "rmse": "RMSE", "mae": "MAE", "mape": "MAPE", "roc_auc": "ROC AUC"}
NAMES |= {"f1": "F1", "macro_f1": "macro F1", "brier": "Brier score"}


def metric_name(name: str) -> str:
    """Return the name of a metric for people."""
    return NAMES.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Measures:
    """Metrics of predictions for rows whose targets are known.

    values: metric -> its value.  A metric that these rows do not define is left out.
    intervals: metric -> (low, high), which holds 95 % of its values on resampled rows.
    headline: the metric to judge by: accuracy, or balanced accuracy where classes are uneven; of
    several labels macro F1; R2.
    per_class: one dict a class or label with its label, precision, recall, f1 and n_samples.
    confusion: counts, one row a true class, one column a predicted one; empty where a row may have
    several labels.  Both are empty for a regression.
    """

    n_samples: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    headline: str
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        metrics = {
            name: {"value": value, "interval": list(self.intervals.get(name, ()))}
            for name, value in self.values.items()
        }
        more = {"classes": self.per_class, "confusion_matrix": self.confusion}
        shown = {name: rows for name, rows in more.items() if rows}
        return {"n_samples": self.n_samples, "metrics": metrics, **shown}

    def rows(self) -> list[list[str]]:
        """Return a metric, its value and its interval in each row, the headline first.

        A loss that is the log loss itself is left out.
        """
        texts = {name: cell_text(value) for name, value in self.values.items()}
        if texts.get("loss") == texts.get("log_loss"):
            texts.pop("loss", None)
        ends = self.intervals
        return [
            [metric_name(name), texts[name], " to ".join(map(cell_text, ends.get(name, ())))]
            for name in sorted(texts, key=lambda name: name != self.headline)
        ]

    def class_rows(self) -> list[list[str]]:
        """Return titles, and a class and its figures in each row; nothing for a regression."""
        rows = [[*map(cell_text, each.values())] for each in self.per_class]
        return [["class", "precision", "recall", "F1", "rows"], *rows] if rows else []


def measure(
    loss_function: Loss, outputs: Array, targets: Array, classes: Sequence[Any] | None
) -> Measures:
    """Measure outputs of a model: the metrics of its loss, and some of scikit-learn's.

    outputs: (n_samples, n_outputs).  targets: as the loss takes them.  classes: the labels of the
    class numbers; None for a regression.
    """
    n_classes = None if classes is None else len(classes)
    fast = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with warnings.catch_warnings(), fast:
        warnings.simplefilter("ignore")  # rows and resamples may lack a class
        values = _values(loss_function, outputs, targets, n_classes)
        intervals = _intervals(loss_function, outputs, targets, n_classes, values)
        headline = next((name for name in HEADLINES if name in values), "loss")
        per_class, confusion = [], []
        if classes is not None:
            decided = loss_function.predict_targets(outputs).reshape(targets.shape)
            numbers = range(len(classes))
            found = sk.precision_recall_fscore_support(
                targets, decided, labels=numbers, zero_division=0.0
            )
            names = ("label", "precision", "recall", "f1", "n_samples")
            columns = [map(str, classes), *(figures.tolist() for figures in found)]
            per_class = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
            if targets.ndim == 1:
                confusion = sk.confusion_matrix(targets, decided, labels=numbers).tolist()
                counts = np.unique(targets, return_counts=True)[1]
                uneven = counts.max() > UNEVEN * counts.min()
                headline = "balanced_accuracy" if uneven else "accuracy"
    return Measures(len(targets), values, intervals, headline, per_class, confusion)


def calibration_error(labels: Array, probabilities: Array) -> float:
    """Return the mean distance between the confidence of a prediction and its accuracy.

    The rows are put into bins of equal width by the probability of their predicted class:
    error = sum over bins of (rows of the bin / rows) * |accuracy - mean confidence|.
    Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    confidence = probabilities.max(axis=1).clip(0, 1)
    right = probabilities.argmax(axis=1) == labels
    inner_edges = np.linspace(0, 1, N_BINS + 1)[1:-1]
    distances = np.bincount(np.searchsorted(inner_edges, confidence), right - confidence)
    return float(np.abs(distances).sum() / len(labels))


def _values(
    loss_function: Loss, outputs: Array, targets: Array, n_classes: int | None
) -> dict[str, float]:
    extra = loss_function.extra_metric_names
    values = loss_and_metrics(loss_function, outputs, targets, extra=extra)
    predicted = loss_function.predict(outputs)
    if n_classes is None and predicted.size == targets.size:  # several quantiles have no error
        targets = targets.reshape(predicted.shape)
        values["median_absolute_error"] = sk.median_absolute_error(targets, predicted)
        if targets.all():  # scikit-learn divides by 2e-16 where a target is 0
            values["mape"] = sk.mean_absolute_percentage_error(targets, predicted)
    if n_classes is not None and targets.ndim == 1:
        p = class_probabilities(predicted, n_classes)
        values["calibration_error"] = calibration_error(targets, p)
        values.setdefault("log_loss", values["loss"])  # of two classes and one output
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _intervals(
    loss_function: Loss, outputs: Array, targets: Array, n_classes: int | None, values: Any
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals from resamples of the n rows, drawn from a fixed seed.

    A resample has m = at most MOST_ROWS rows; the deviations that it shows are then scaled by
    sqrt(m / n) (Bickel, Götze and van Zwet, Resampling fewer than n observations, 1997).
    """
    n, rng, draws = len(targets), np.random.default_rng(0), []
    m = min(n, MOST_ROWS)
    for _ in range(N_RESAMPLES):
        rows = rng.integers(0, n, m)
        draws.append(_values(loss_function, outputs[rows], targets[rows], n_classes))
    intervals = {}
    for name, value in values.items():
        found = [draw[name] for draw in draws if math.isfinite(draw.get(name, math.nan))]
        if len(found) > N_RESAMPLES // 2:
            low, high = value + (np.percentile(found, [2.5, 97.5]) - value) * math.sqrt(m / n)
            intervals[name] = (float(low), float(high))
    return intervals
