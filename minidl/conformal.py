"""Sets and intervals that contain the true value with a given probability, for any model.

Split-conformal prediction: the errors of predictions on rows that a model has not seen say how far
its predictions for other rows are off. The guarantee holds on average over rows that come from the
same source, and not for each kind of row by itself.
Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Sadinle, Lei and
Wasserman, Least Ambiguous Set-Valued Classifiers, 2019, for sets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.kernels import Array

MAX_SCORES = 4000  # kept of more, evenly spaced in their order


class Scored:
    """A model with `conformal_scores`: what `kept_scores` returns for rows not seen, or None."""

    conformal_scores: Array | None
    predict: Any
    predict_proba: Any

    def _scores(self) -> Array:
        if self.conformal_scores is None:
            raise AttributeError("this model has no errors for rows that were held out")
        return self.conformal_scores

    def _threshold(self, coverage: float) -> Array:
        """Return the score, (n,), that a share `coverage` of new rows stays below.

        It is the ceil((n + 1) * coverage)-th smallest of n scores; infinite where n is too small.
        """
        scores = self._scores()
        require("coverage", coverage, 0 < coverage < 1, "in (0, 1)")
        rank = math.ceil((len(scores) + 1) * coverage)
        found: Array = scores[rank - 1] if rank <= len(scores) else np.full(scores.shape[1], np.inf)
        return found


class LabelSets(Scored):
    """Sets of classes in place of one class."""

    def predict_set(self, X: Any, coverage: float = 0.9) -> Array:
        """Return which classes may be the true one, (n_samples, n_classes) bool.

        The set of a row holds its true class with probability `coverage`, in (0, 1), on average
        over rows from the same source as the training rows; the most likely class always is in it.
        Raises AttributeError for a regression, and where no rows were held out.
        """
        p, limit = self.predict_proba(X), self._threshold(coverage)
        if len(limit) > 1:
            raise ValueError("predict_set is for one class a row, not for several labels a row")
        sets: Array = 1 - p <= limit
        sets[np.arange(len(p)), p.argmax(axis=1)] = True
        return sets


class Intervals(Scored):
    """Intervals in place of single numbers."""

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Array:
        """Return the lower and upper end for each value, (n_samples, 2) or (n_samples, n, 2).

        The interval of a row holds its true value with probability `coverage`, in (0, 1), on
        average over rows from the same source as the training rows.
        Raises AttributeError for a classifier, and where no rows were held out.
        """
        values = self.predict(X)
        if values.dtype.kind != "f":
            raise AttributeError("predict_interval is for regressions; this model is a classifier")
        width = self._threshold(coverage)
        width = width[0] if values.ndim == 1 else width
        return np.stack([values - width, values + width], axis=-1)


def kept_scores(scores: Array) -> Array:
    """Return the scores of rows that were held out, sorted along the first axis and thinned.

    scores: (n_rows, n); absolute errors, or 1 - probability of the true class.
    """
    scores = np.sort(scores, axis=0)
    if len(scores) <= MAX_SCORES:
        return scores
    places = np.linspace(0, len(scores) - 1, MAX_SCORES).round().astype(np.int64)
    return scores[places]


def check_scores(scores: Array | None, n: int) -> None:
    """Raise ValueError for what is neither None nor what `kept_scores` returns, (n_rows, n)."""
    if scores is None:
        return
    right = isinstance(scores, np.ndarray) and scores.dtype == np.float64 and scores.ndim == 2
    if not (right and scores.shape[1] == n and len(scores) <= MAX_SCORES and (scores >= 0).all()):
        raise ValueError(f"its conformal scores must be {n} columns of numbers that are at least 0")
    if (np.diff(scores, axis=0) < 0).any():
        raise ValueError("its conformal scores must be sorted")
