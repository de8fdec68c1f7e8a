"""scikit-learn's rules of stopping and of the adaptive rate, epoch by epoch."""

from __future__ import annotations

import numpy as np

from minidl.estimators.network import StoppingRule


def decisions(rule, losses, scores=None, rate=0.1):
    scores = scores or [None] * len(losses)
    return [rule.after(loss, score, rate) for loss, score in zip(losses, scores, strict=True)]


def test_training_stops_after_more_than_n_epochs_without_an_improvement():
    rule = StoppingRule(tol=0.1, n_iter_no_change=2)
    found = decisions(rule, [1.0, 0.8, 0.75, 0.74, 0.73])
    assert found == ["continue"] * 4 + ["stop"]
    assert (rule.best_loss, rule.n_without_improvement) == (0.73, 3)


def test_a_gain_of_exactly_tol_is_an_improvement_and_nan_is_not_counted():
    rule = StoppingRule(tol=0.25, n_iter_no_change=1)
    assert decisions(rule, [1.0, 0.75, np.nan, 0.5]) == ["continue"] * 4
    assert rule.n_without_improvement == 0


def test_with_early_stopping_the_score_decides():
    rule = StoppingRule(tol=0.0, n_iter_no_change=1, early_stopping=True)
    assert decisions(rule, [3, 2, 1], [0.5, 0.4, 0.4]) == ["continue", "continue", "stop"]
    assert (rule.best_score, rule.best_loss) == (0.5, np.inf)
    watched = StoppingRule(tol=0.0, n_iter_no_change=1)  # a score alone does not
    assert decisions(watched, [3, 2, 1], [0.5, 0.4, 0.4]) == ["continue"] * 3
    assert watched.best_score == 0.5


def test_an_adaptive_rate_is_lowered_before_training_stops():
    rule = StoppingRule(tol=0.0, n_iter_no_change=1, adaptive=True)
    assert decisions(rule, [1, 2, 2, 2, 2]) == [
        *["continue"] * 2, "lower the rate", "continue", "lower the rate"
    ]  # fmt: skip
    assert decisions(rule, [2, 2], rate=1e-6) == ["continue", "stop"]


def test_a_schedule_is_cut_short_by_early_stopping_only():
    rule = StoppingRule(tol=0.0, n_iter_no_change=1, scheduled=True)
    assert decisions(rule, [1, 2, 2, 2]) == ["continue"] * 4
    rule = StoppingRule(tol=0.0, n_iter_no_change=1, scheduled=True, early_stopping=True)
    assert decisions(rule, [1, 2, 2], [1.0, 0, 0])[-1] == "stop"
