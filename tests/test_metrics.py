"""Metrics are scikit-learn's; their intervals are those of resampled rows."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from minidl.evaluation import class_probabilities
from minidl.losses import MSE, Pinball, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.report.metrics import calibration_error, measure


def predictions(n=300, k=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    p = np.exp(logits)
    return labels, p / p.sum(axis=1, keepdims=True)


def measured(labels, p):
    """Measure a model of classes that gives these probabilities."""
    return measure(SoftmaxCrossEntropy(), np.log(p), labels, range(p.shape[1]))


def test_the_values_are_those_of_scikit_learn():
    labels, p = predictions()
    found = measured(labels, p)
    predicted = p.argmax(axis=1)
    assert found.values["accuracy"] == sk.accuracy_score(labels, predicted)
    assert found.values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    f1 = sk.f1_score(labels, predicted, average="macro")
    assert found.values["macro_f1"] == pytest.approx(f1)
    assert found.values["log_loss"] == pytest.approx(sk.log_loss(labels, p))
    auc = sk.roc_auc_score(labels, p, multi_class="ovr")
    assert found.values["roc_auc"] == pytest.approx(auc)
    assert found.confusion == sk.confusion_matrix(labels, predicted).tolist()
    report = sk.classification_report(labels, predicted, output_dict=True)
    for k, row in enumerate(found.per_class):
        assert row["precision"] == report[str(k)]["precision"]
        assert row["f1"] == report[str(k)]["f1-score"]
        assert row["n_samples"] == report[str(k)]["support"]
    assert set(found.intervals) == set(found.values)


@pytest.mark.parametrize("n", [1000, 50_000], ids=["all rows", "a part of them, scaled"])
def test_an_interval_is_as_wide_as_the_binomial_deviation_says(n):
    labels, p = predictions(n=n, k=2)
    found = measured(labels, p)
    accuracy = found.values["accuracy"]
    deviation = math.sqrt(accuracy * (1 - accuracy) / n)
    low, high = found.intervals["accuracy"]
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_the_interval_of_roc_auc_is_that_of_its_values_on_resampled_rows():
    labels, p = predictions(n=80)
    logits = np.round(np.log(p))  # with ties
    p = SoftmaxCrossEntropy().predict(logits)
    rng, areas = np.random.default_rng(0), []
    for _ in range(200):
        rows = rng.integers(0, 80, 80)
        areas.append(sk.roc_auc_score(labels[rows], p[rows], multi_class="ovr"))
    found = measure(SoftmaxCrossEntropy(), logits, labels, range(3)).intervals["roc_auc"]
    assert found == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])), abs=1e-12)


def test_equal_predictions_give_equal_intervals():
    labels, p = predictions(n=60)
    once, again = (measured(labels, p) for _ in range(2))
    assert once == again
    json.dumps(once.as_dict(), allow_nan=False)


def test_a_loss_that_is_the_log_loss_is_shown_once():
    labels, p = predictions(n=60)
    names = [row[0] for row in measured(labels, p).rows()]
    assert "log loss" in names and "loss" not in names
    smooth = measure(SoftmaxCrossEntropy(label_smoothing=0.2), np.log(p), labels, range(3))
    assert {"log loss", "loss"} <= {row[0] for row in smooth.rows()}


def test_what_the_rows_do_not_define_is_left_out():
    labels, p = predictions(n=40)
    found = measured(np.zeros(40, np.int64), p)
    assert "roc_auc" not in found.values and "accuracy" in found.intervals
    one = measured(labels[:1], p[:1])
    assert one.n_samples == 1 and one.values["accuracy"] in (0.0, 1.0)
    alone = measured(np.zeros(5, np.int64), np.ones((5, 1)))
    assert alone.values["log_loss"] == 0 and alone.confusion == [[5]]


def test_uneven_classes_are_judged_by_balanced_accuracy():
    labels, p = predictions()
    assert measured(labels, p).headline == "accuracy"
    rare = np.r_[np.flatnonzero(labels), np.flatnonzero(labels == 0)[:9]]
    found = measured(labels[rare], p[rare])
    assert found.headline == "balanced_accuracy"


def test_one_output_of_two_classes_is_measured_as_two_are():
    labels, p = predictions(k=2)
    logits = np.log(p[:, 1:] / p[:, :1])
    one = measure(SigmoidCrossEntropy(), logits, labels, range(2))
    two = measured(labels, p)
    for name in ("accuracy", "macro_f1", "log_loss", "roc_auc", "brier", "calibration_error"):
        assert one.values[name] == pytest.approx(two.values[name]), name
    assert one.confusion == two.confusion and one.per_class == two.per_class
    assert class_probabilities(p[:, 1:], 2) == pytest.approx(p)


def test_several_labels_a_row():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < 0.4).astype(np.uint8)
    logits = rng.normal(size=(200, 3)) + 2 * targets - 1
    found = measure(SigmoidCrossEntropy(), logits, targets, range(3))
    decided = logits > 0
    assert found.values["macro_f1"] == pytest.approx(sk.f1_score(targets, decided, average="macro"))
    assert found.values["accuracy"] == sk.accuracy_score(targets, decided)
    assert found.values["roc_auc"] == pytest.approx(sk.roc_auc_score(targets, logits))
    assert found.headline == "macro_f1" and found.confusion == []
    assert [row["n_samples"] for row in found.per_class] == targets.sum(axis=0).tolist()
    precision = sk.precision_score(targets[:, 1], decided[:, 1])
    assert found.per_class[1]["precision"] == precision
    assert set(found.intervals) == set(found.values)


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
    found = measure(MSE(), predicted, targets, None)
    flat = predicted.reshape(shape)
    assert found.headline == "r2" and found.per_class == []
    assert found.values["r2"] == pytest.approx(sk.r2_score(targets, flat))
    assert found.values["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, flat))
    assert found.values["mape"] == sk.mean_absolute_percentage_error(targets, flat)
    assert set(found.values) == {"loss", "r2", "rmse", "mae", "median_absolute_error", "mape"}
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high
    targets[3] = 0
    assert "mape" not in measure(MSE(), predicted, targets, None).values


def test_several_quantiles_are_measured_by_their_coverage():
    targets = np.linspace(0, 1, 100)
    outputs = np.column_stack([np.full(100, 0.1), np.full(100, 0.9)])
    found = measure(Pinball(quantile=[0.1, 0.9]), outputs, targets, None)
    assert found.headline == "coverage" and found.values["coverage"] == pytest.approx(0.8)
