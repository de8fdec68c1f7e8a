"""Metrics are scikit-learn's; their intervals are those of resampled rows."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from minidl.report import metrics
from minidl.report.metrics import calibration_error, measure_classification, measure_regression


def predictions(n=300, k=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    p = np.exp(logits)
    return labels, p / p.sum(axis=1, keepdims=True)


def test_the_values_are_those_of_scikit_learn():
    labels, p = predictions()
    found = measure_classification(labels, p, intervals_of=())
    predicted = p.argmax(axis=1)
    assert found.values["accuracy"] == sk.accuracy_score(labels, predicted)
    assert found.values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    assert found.values["log_loss"] == pytest.approx(sk.log_loss(labels, p))
    auc = sk.roc_auc_score(labels, p, multi_class="ovr")
    assert found.values["roc_auc"] == pytest.approx(auc)
    assert found.confusion == sk.confusion_matrix(labels, predicted).tolist()
    report = sk.classification_report(labels, predicted, output_dict=True)
    for k, row in enumerate(found.per_class):
        assert row["precision"] == report[str(k)]["precision"]
        assert row["f1"] == report[str(k)]["f1-score"]
        assert row["n_samples"] == report[str(k)]["support"]
    assert found.intervals == {}


def test_an_interval_is_as_wide_as_the_binomial_deviation_says():
    labels, p = predictions(n=1000, k=2)
    found = measure_classification(labels, p, intervals_of=["accuracy"])
    accuracy = found.values["accuracy"]
    deviation = math.sqrt(accuracy * (1 - accuracy) / 1000)
    low, high = found.intervals["accuracy"]
    assert list(found.intervals) == ["accuracy"]
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_many_rows_are_resampled_in_part_and_the_interval_is_scaled():
    labels, p = predictions(n=50_000, k=2)
    found = measure_classification(labels, p, intervals_of=["accuracy"])
    accuracy = found.values["accuracy"]
    deviation = math.sqrt(accuracy * (1 - accuracy) / 50_000)
    low, high = found.intervals["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_equal_predictions_give_equal_intervals():
    labels, p = predictions(n=60)
    chosen = ["accuracy", "calibration_error"]
    once, again = (measure_classification(labels, p, intervals_of=chosen) for _ in range(2))
    assert once == again and list(once.intervals) == chosen
    json.dumps(once.as_dict(["a", "b", "c"]), allow_nan=False)


def test_what_the_rows_do_not_define_is_left_out():
    labels, p = predictions(n=40)
    found = measure_classification(np.zeros(40, np.int64), p, intervals_of=["roc_auc", "accuracy"])
    assert "roc_auc" not in found.values and list(found.intervals) == ["accuracy"]
    one = measure_classification(labels[:1], p[:1], intervals_of=["accuracy"])
    assert one.n_samples == 1 and one.values["accuracy"] in (0.0, 1.0)
    alone = measure_classification(np.zeros(5, np.int64), np.ones((5, 1)), intervals_of=())
    assert alone.values["log_loss"] == 0 and alone.confusion == [[5]]


def test_uneven_classes_are_judged_by_balanced_accuracy():
    labels, p = predictions()
    assert measure_classification(labels, p, intervals_of=()).headline == "accuracy"
    rare = np.r_[np.flatnonzero(labels), np.flatnonzero(labels == 0)[:9]]
    assert measure_classification(labels[rare], p[rare], intervals_of=()).headline == (
        "balanced_accuracy"
    )


def test_the_calibration_error_of_a_case_done_by_hand():
    p = np.array([[0.95, 0.05], [0.93, 0.07], [0.35, 0.65], [0.38, 0.62], [0.64, 0.36]])
    labels = np.array([0, 1, 1, 1, 1])
    by_hand = 2 / 5 * abs(1 / 2 - 0.94) + 3 / 5 * abs(2 / 3 - (0.65 + 0.62 + 0.64) / 3)
    assert calibration_error(labels, p) == pytest.approx(by_hand)


@pytest.mark.parametrize("shape", [(200,), (200, 2)])
def test_a_regression(shape):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=shape) + 5
    predicted = (targets + rng.normal(size=shape) / 10).reshape(200, -1)
    found = measure_regression(targets, predicted)
    flat = predicted.reshape(shape)
    assert found.values["r2"] == sk.r2_score(targets, flat)
    assert found.values["mape"] == sk.mean_absolute_percentage_error(targets, flat)
    assert set(found.intervals) == set(metrics.REGRESSION) == set(found.values)
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high
    targets[3] = 0
    assert "mape" not in measure_regression(targets, predicted, intervals_of=()).values
    assert "r2" not in measure_regression(targets[:1], predicted[:1], intervals_of=()).values
