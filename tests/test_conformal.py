"""Intervals from errors of predictions: their coverage, and where they are wide."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import conformal


class Known(conformal.Intervals):
    """A model that predicts the rows themselves."""

    def __init__(self, scores):
        self.conformal_scores = scores

    def predict(self, X):
        return X[:, 0] if X.shape[1] == 1 else X


def noisy(rng, rows=3000):
    """Predicted values, and errors that grow with the first and fall with the second."""
    values = rng.uniform(0, 10, (rows, 2))
    return values, np.abs(rng.normal(size=(rows, 2))) * np.c_[1 + values[:, 0], 11 - values[:, 1]]


def test_intervals_are_wide_where_errors_are_large():
    rng = np.random.default_rng(0)
    model = Known(conformal.kept_scores(*reversed(noisy(rng))))
    values, errors = noisy(rng)
    low, high = np.moveaxis(model.predict_interval(values, 0.9), -1, 0)
    np.testing.assert_allclose(high - values, values - low)
    held = errors <= high - values
    assert (np.abs(held.mean(axis=0) - 0.9) < 0.02).all()
    for j in range(2):
        small = values[:, j] < 5
        assert abs(held[small, j].mean() - held[~small, j].mean()) < 0.04
    widths = model.predict_interval(np.array([[0.0, 0.0], [10.0, 10.0]]))[:, :, 1] - [[0], [10]]
    assert widths[1, 0] > 3 * widths[0, 0] and widths[0, 1] > 3 * widths[1, 1]


def test_errors_alone_give_one_width():
    errors = np.arange(1.0, 10.0)[:, None]
    assert Known(errors).predict_interval(np.array([[5.0]]), 0.8).tolist() == [[-3.0, 13.0]]
    assert np.isinf(Known(errors).predict_interval(np.array([[5.0]]), 0.95)).all()
    one = Known(conformal.kept_scores(errors, errors[::-1]))  # too few rows for parts
    np.testing.assert_allclose(one.predict_interval(np.array([[5.0]]), 0.8), [[-3.0, 13.0]])
    exact = Known(conformal.kept_scores(0 * errors, errors))
    assert exact.predict_interval(np.array([[5.0]])).tolist() == [[5.0, 5.0]]


def test_scores_of_many_rows_are_thinned_and_those_of_others_refused():
    rng = np.random.default_rng(0)
    values, errors = noisy(rng, 9000)
    for columns, scores in ((1, conformal.kept_scores(errors[:, :1])),
                            (2, conformal.kept_scores(errors, values))):  # fmt: skip
        assert len(scores) == conformal.MAX_SCORES
        conformal.check_scores(scores, columns)
        for wrong in (scores[::-1], -scores, scores.astype("f4"), scores[:, :0], scores * np.nan):
            with pytest.raises(ValueError, match="conformal scores must be"):
                conformal.check_scores(wrong, columns)
