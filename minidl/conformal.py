"""Sets and intervals that contain the true value with a given probability, for any model.

Split-conformal prediction: the errors of predictions on rows that a model has not seen say how far
its predictions for other rows are off. The guarantee holds on average over rows that come from the
same source, and not for each kind of row by itself.
Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Sadinle, Lei and
Wasserman, Least Ambiguous Set-Valued Classifiers, 2019, for sets; Lei et al., Distribution-Free
Predictive Inference for Regression, 2018, section 5.2, for errors divided by their usual size.
"""

import math
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.kernels import Array

MAX_SCORES = 4000  # rows kept of more, evenly spaced in their order
LEVELS, LEVEL_ROWS = 5, 50  # parts of the rows by predicted value, and how many a part needs


class LabelSets:
    """Sets of classes in place of one class, for a model with `conformal_scores`."""

    def predict_set(self: Any, X: Any, coverage: float = 0.9) -> Array:
        """Return which classes may be the true one, (n_samples, n_classes) bool.

        The set of a row holds its true class with probability `coverage`, in (0, 1), on average
        over rows from the same source as the training rows; the most likely class always is in it.
        Raises AttributeError for a regression, and where no rows were held out.
        """
        p, limit = self.predict_proba(X), threshold(_scores_of(self), coverage)
        if len(limit) > 1:
            raise ValueError("predict_set is for one class a row, not for several labels a row")
        sets: Array = 1 - p <= limit
        sets[np.arange(len(p)), p.argmax(axis=1)] = True
        return sets


class Intervals:
    """Intervals in place of single numbers, for a model with `conformal_scores`."""

    def predict_interval(self: Any, X: Any, coverage: float = 0.9) -> Array:
        """Return the lower and upper end for each value, (n_samples, 2) or (n_samples, n, 2).

        The interval of a row holds its true value with probability `coverage`, in (0, 1), on
        average over rows from the same source as the training rows. It is wider where errors were
        larger among rows of similar predicted values.
        Raises AttributeError for a classifier, and where no rows were held out.
        """
        values = self.predict(X)
        if values.dtype.kind != "f":
            raise AttributeError("predict_interval is for regressions; this model is a classifier")
        scores, n = _scores_of(self), 1 if values.ndim == 1 else values.shape[1]
        known, errors = scores[:, :-n], scores[:, -n:]
        width = threshold(errors / usual(known, errors, known), coverage)
        width = (width * usual(known, errors, values.reshape(-1, n))).reshape(values.shape)
        return np.stack([values - width, values + width], axis=-1)


def _scores_of(model: Any) -> Array:
    if model.conformal_scores is None:
        raise AttributeError("this model has no errors for rows that were held out")
    return np.asarray(model.conformal_scores)


def threshold(scores: Array, coverage: float) -> Array:
    """Return the score, (n,), that a share `coverage` of new rows stays below.

    It is the ceil((n_rows + 1) * coverage)-th smallest of n_rows, infinite where those are too few.
    scores: (n_rows, n).
    """
    require("coverage", coverage, 0 < coverage < 1, "in (0, 1)")
    rank = math.ceil((len(scores) + 1) * coverage)
    if rank > len(scores):
        return np.full(scores.shape[1], np.inf)
    return np.asarray(np.sort(scores, axis=0)[rank - 1])


def usual(known: Array, errors: Array, values: Array) -> Array:
    """Return the usual error of predictions around each of `values`, (n_samples, n).

    The known rows, in the order of their predicted values, are cut into parts of equal numbers. It
    is linear between the means of the parts, and at least a tenth of the mean of all.
    known, errors: (n_rows, n); without known values it is 1.
    """
    if not (known.size and errors.any(axis=0).all()):
        return np.ones((len(values), errors.shape[1]))
    n_parts = max(1, min(LEVELS, len(known) // LEVEL_ROWS))
    parts = np.array_split(np.stack([known, errors]), n_parts, axis=1)
    centers, sizes = np.stack([part.mean(axis=1) for part in parts], axis=-1)
    sizes = np.maximum(sizes, sizes.mean(axis=1, keepdims=True) / 10)
    return np.stack([np.interp(*each) for each in zip(values.T, centers, sizes, strict=True)], 1)


def kept_scores(errors: Array, values: Array | None = None) -> Array:
    """Return the `conformal_scores` of rows that were held out, at most 4,000 of them.

    errors: 1 - probability of the true class, (n_rows, 1); of numbers, the absolute errors,
    (n_rows, n).  values: the predicted ones, where errors depend on them, (n_rows, n).
    Returns the errors, or values in rising order and the errors there, (n_rows, 2 * n).
    """
    arrays = [errors] if values is None else [values, errors]
    order = np.argsort(arrays[0], axis=0, kind="stable")
    scores = np.hstack([np.take_along_axis(array, order, axis=0) for array in arrays])
    places = np.linspace(0, len(scores) - 1, min(len(scores), MAX_SCORES))
    return np.asarray(scores[places.round().astype(np.int64)])


def check_scores(scores: Array | None, n: int) -> None:
    """Raise ValueError for what is neither None nor what `kept_scores` returns for n columns."""
    if scores is None:
        return
    right = isinstance(scores, np.ndarray) and scores.dtype == np.float64 and scores.ndim == 2
    right = right and scores.shape[1] in (n, 2 * n) and len(scores) <= MAX_SCORES
    right = right and bool(np.isfinite(scores).all() and (scores[:, -n:] >= 0).all())
    if not (right and (np.diff(scores[:, :n], axis=0) >= 0).all()):
        raise ValueError(f"its conformal scores must be {n} or {2 * n} sorted columns of errors")
