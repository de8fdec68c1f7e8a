from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from sklearn import metrics

from minidl.errors import ParameterError
from minidl.evaluation import loss_and_metrics
from minidl.gradcheck import check_gradients
from minidl.layers import Identity
from minidl.losses import (
    LOSSES,
    MAE,
    MSE,
    Huber,
    Loss,
    Pinball,
    Poisson,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from minidl.losses.metrics import roc_auc

N, K = 12, 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labels() -> np.ndarray:
    return rng(1).integers(0, K, N)


def soft() -> np.ndarray:
    return rng(1).dirichlet(np.ones(K), N)


def yes_or_no() -> np.ndarray:
    return rng(1).integers(0, 2, (N, K)).astype(float)


def numbers() -> np.ndarray:
    return rng(1).normal(size=(N, K))


def counts() -> np.ndarray:
    return rng(1).poisson(2, (N, K)).astype(float)


def column(targets: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: targets()[:, 0]


# By the name in the registry: losses, and targets for K outputs (for 1 where they are 1-D numbers).
SAMPLES: dict[str, list[tuple[Loss, Callable[[], np.ndarray]]]] = {
    "softmax_cross_entropy": [
        (SoftmaxCrossEntropy(), labels),
        (SoftmaxCrossEntropy(label_smoothing=0.2), labels),
        (SoftmaxCrossEntropy(class_weight=[1.0, 0.0, 2.5]), labels),
        (SoftmaxCrossEntropy(), soft),
        (SoftmaxCrossEntropy(label_smoothing=0.2, class_weight=[1.0, 0.5, 2.5]), soft),
    ],
    "sigmoid_cross_entropy": [
        (SigmoidCrossEntropy(), yes_or_no),
        (SigmoidCrossEntropy(), column(yes_or_no)),
    ],
    "mse": [(MSE(), numbers), (MSE(), column(numbers))],
    "mae": [(MAE(), numbers), (MAE(), column(numbers))],
    "huber": [(Huber(), numbers), (Huber(delta=0.3), column(numbers))],
    "quantile": [
        (Pinball(), numbers),
        (Pinball(0.9), column(numbers)),
        (Pinball([0.1, 0.5, 0.9]), column(numbers)),
    ],
    "poisson": [(Poisson(), counts), (Poisson(), column(counts))],
}
CASES = [
    pytest.param(loss_function, targets, id=f"{name}-{i}")
    for name, samples in SAMPLES.items()
    for i, (loss_function, targets) in enumerate(samples)
]
each_loss = pytest.mark.parametrize(("loss_function", "targets"), CASES)


def outputs(loss_function: Loss, t: np.ndarray, seed: int = 2) -> np.ndarray:
    n_outputs = K if isinstance(loss_function, SoftmaxCrossEntropy) else loss_function.n_outputs(t)
    return rng(seed).normal(size=(len(t), n_outputs))


class Weighted(Loss):
    """A loss function under fixed sample weights, for the gradient check."""

    def __init__(self, loss_function: Loss, sample_weight: np.ndarray) -> None:
        self.loss_function, self.sample_weight = loss_function, sample_weight

    def __call__(self, logits, targets, sample_weight=None, total_weight=None):
        return self.loss_function(logits, targets, self.sample_weight, total_weight)


def test_every_registered_head_has_a_sample():
    assert set(SAMPLES) == set(LOSSES)
    for name, samples in SAMPLES.items():
        assert all(type(loss_function) is LOSSES[name] for loss_function, _ in samples)


@each_loss
def test_gradients_are_those_of_finite_differences(loss_function, targets):
    z = outputs(loss_function, targets())
    for checked in (loss_function, Weighted(loss_function, rng(3).random(N))):
        report = check_gradients(Identity(), z, checked, targets(), tolerance=1e-7)
        assert report.passed, f"\n{report}"


@each_loss
def test_the_loss_is_a_mean_and_weights_count_as_repeated_rows(loss_function, targets):
    t, repeats = targets(), rng(4).integers(0, 4, N)
    z = outputs(loss_function, t)
    loss, dz = loss_function(z, t, sample_weight=repeats)
    again, dz_again = loss_function(np.repeat(z, repeats, axis=0), np.repeat(t, repeats, axis=0))
    assert loss == pytest.approx(again, rel=1e-14)
    firsts = np.cumsum(repeats) - repeats
    for i in np.flatnonzero(repeats):
        assert np.allclose(dz[i], repeats[i] * dz_again[firsts[i]], rtol=1e-13)
    assert np.all(dz[repeats == 0] == 0)


@each_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_of_shards_add_up(loss_function, targets, weighted):
    t = targets()
    z, w = outputs(loss_function, t), rng(3).random(N) if weighted else None
    loss, dz = loss_function(z, t, w)
    total = loss_function.total_weight(t, w)
    shards = [
        loss_function(z[part], t[part], None if w is None else w[part], total)
        for part in (slice(0, 5), slice(5, 6), slice(6, N))
    ]
    assert sum(part for part, _ in shards) == pytest.approx(loss, rel=1e-13)
    assert np.allclose(np.concatenate([d for _, d in shards]), dz, rtol=1e-13, atol=0)


@each_loss
def test_nothing_given_is_modified_and_the_dtype_stays(loss_function, targets):
    t, w = targets(), rng(3).random(N)
    for dtype in (np.float32, np.float64):
        z = outputs(loss_function, t).astype(dtype)
        given = [z.copy(), t.copy(), w.copy()]
        for weight in (None, w):
            loss, dz = loss_function(z, t, weight)
            assert type(loss) is float
            assert dz.dtype == dtype
            assert dz.shape == z.shape
            assert dz.flags.c_contiguous
            assert loss == pytest.approx(
                loss_function(z.astype(np.float64), t, weight)[0], rel=1e-5
            )
        assert loss_function.predict(z).dtype == dtype
        assert all(type(value) is float for value in loss_function.metrics(z, t, w).values())
        assert set(loss_function.metric_names) <= set(loss_function.metrics(z, t, w))
        assert all(np.array_equal(a, b) for a, b in zip(given, (z, t, w), strict=True))


@each_loss
def test_large_logits_stay_finite_in_float32(loss_function, targets):
    t = targets()
    z = (1e4 * np.sign(outputs(loss_function, t))).astype(np.float32)
    loss, dz = loss_function(z, t)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(dz))
    assert np.all(np.isfinite(loss_function.predict(z)))


@each_loss
def test_targets_that_fit_pass_the_check(loss_function, targets):
    t = targets()
    loss_function.check_targets(t, outputs(loss_function, t).shape[1])


@each_loss
def test_a_batch_without_weight_teaches_nothing(loss_function, targets):
    t = targets()
    loss, dz = loss_function(outputs(loss_function, t), t, np.zeros(N))
    assert loss == 0
    assert np.all(dz == 0)


def test_softmax_cross_entropy_is_the_log_loss():
    z, y = outputs(SoftmaxCrossEntropy(), labels()), labels()
    p = scipy_softmax(z, axis=1)
    loss_function = SoftmaxCrossEntropy()
    assert np.allclose(loss_function.predict(z), p, rtol=1e-13)
    assert loss_function(z, y)[0] == pytest.approx(metrics.log_loss(y, p), rel=1e-12)
    factors = np.array([1.0, 0.5, 2.5])
    weighted, _ = SoftmaxCrossEntropy(class_weight=factors.tolist())(z, y)
    assert weighted == pytest.approx(metrics.log_loss(y, p, sample_weight=factors[y]), rel=1e-12)


def test_hard_labels_are_soft_ones_with_one_certain_class():
    y = labels()
    certain = np.eye(K)[y]
    for smoothing in (0.0, 0.3):
        for weights in (None, [1.0, 0.5, 2.5]):
            loss_function = SoftmaxCrossEntropy(smoothing, weights)
            z = outputs(loss_function, y)
            hard, soft_ = loss_function(z, y), loss_function(z, certain)
            assert hard[0] == pytest.approx(soft_[0], rel=1e-13)
            assert np.allclose(hard[1], soft_[1], rtol=0, atol=1e-15)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    y = labels()
    z = outputs(SoftmaxCrossEntropy(), y)
    t = 0.7 * np.eye(K)[y] + 0.3 / K
    expected = -(t * np.log(scipy_softmax(z, axis=1))).sum(axis=1).mean()
    assert SoftmaxCrossEntropy(0.3)(z, y)[0] == pytest.approx(expected, rel=1e-13)


def test_labels_may_be_of_any_integer_type():
    z = rng().normal(size=(700, K))
    y = rng(1).integers(0, K, 700)
    expected = SoftmaxCrossEntropy()(z, y)
    for dtype in (np.uint8, np.int8, np.int32, np.uint64):
        loss, dz = SoftmaxCrossEntropy()(z, y.astype(dtype))
        assert loss == expected[0]
        assert np.array_equal(dz, expected[1])


def test_a_sure_and_right_sigmoid_keeps_the_digits_of_its_small_loss():
    z = np.array([[20.0], [-20.0]], np.float32)
    loss, _ = SigmoidCrossEntropy()(z, np.array([1, 0]))
    assert loss == pytest.approx(np.log1p(np.exp(-20)), rel=1e-6)


def test_sigmoid_cross_entropy_is_the_log_loss_summed_over_labels():
    t = yes_or_no()
    z = outputs(SigmoidCrossEntropy(), t)
    loss_function = SigmoidCrossEntropy()
    assert np.allclose(loss_function.predict(z), expit(z), rtol=1e-13)
    expected = sum(metrics.log_loss(t[:, j], expit(z[:, j]), labels=[0, 1]) for j in range(K))
    assert loss_function(z, t)[0] == pytest.approx(expected, rel=1e-12)


def test_regression_losses_are_those_of_scikit_learn():
    t = numbers()
    z = outputs(MSE(), t)
    assert MSE()(z, t)[0] == pytest.approx(metrics.mean_squared_error(t, z), rel=1e-13)
    assert MAE()(z, t)[0] == pytest.approx(metrics.mean_absolute_error(t, z), rel=1e-13)
    pinball = metrics.mean_pinball_loss(t, z, alpha=0.8)
    assert Pinball(0.8)(z, t)[0] == pytest.approx(pinball, rel=1e-13)
    c = counts()
    deviance = np.mean([metrics.mean_poisson_deviance(c[:, j], np.exp(z[:, j])) for j in range(K)])
    assert 2 * Poisson()(z, c)[0] == pytest.approx(deviance, rel=1e-12)


def test_huber_is_a_parabola_with_straight_arms():
    e = np.array([[-3.0], [-0.5], [0.0], [0.25], [2.0]])
    expected = [2 * 3 - 2, 0.125, 0, 0.03125, 2 * 2 - 2]
    found = [Huber(delta=2.0)(row[None], np.zeros(1))[0] for row in e]
    assert found == pytest.approx(expected)


def test_several_quantiles_of_one_target():
    loss_function, t = Pinball([0.1, 0.5, 0.9]), numbers()[:, 0]
    z = outputs(loss_function, t)
    each = [Pinball(q)(z[:, [j]], t)[0] for j, q in enumerate((0.1, 0.5, 0.9))]
    assert loss_function(z, t)[0] == pytest.approx(np.mean(each), rel=1e-13)
    inside = (t >= z[:, 0]) & (t <= z[:, 2])
    assert loss_function.metrics(z, t)["coverage"] == pytest.approx(inside.mean())
    with pytest.raises(ValueError, match=r"^quantile must be one number for 3 targets"):
        loss_function.n_outputs(numbers())


def test_a_quantile_has_its_share_of_targets_below_where_its_loss_is_least():
    t = rng().exponential(size=4001)
    best = np.full((4001, 1), np.quantile(t, 0.8))
    least = Pinball(0.8)(best, t)[0]
    assert all(Pinball(0.8)(best + d, t)[0] > least for d in (-0.01, 0.01))
    assert Pinball(0.8).metrics(best, t)["coverage"] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("loss_function", [MAE(), Huber(), Pinball(0.8), MSE()])
def test_a_perfect_prediction_costs_nothing_and_pulls_nowhere(loss_function):
    loss, dz = loss_function(numbers(), numbers())
    assert loss == 0
    assert np.all(dz == 0)


def test_poisson_predicts_counts_and_goes_on_along_its_tangent():
    loss_function, t = Poisson(), np.array([3.0])
    assert loss_function.predict(np.array([[0.5]]))[0, 0] == pytest.approx(np.exp(0.5))
    below, at, above = (loss_function(np.array([[z]]), t) for z in (59.999999, 60.0, 61.0))
    assert below[0] == pytest.approx(at[0], rel=1e-5)
    assert above[0] - at[0] == pytest.approx(at[1][0, 0], rel=1e-12)
    assert above[1] == at[1]


def test_the_likeliest_class_of_soft_targets_is_the_right_one():
    z, y, w = outputs(SoftmaxCrossEntropy(), labels()), labels(), rng(3).random(N)
    loss_function = SoftmaxCrossEntropy()
    extra = loss_function.extra_metric_names
    soft_targets = loss_function.metrics(z, np.eye(K)[y], w, extra)
    assert soft_targets == pytest.approx(loss_function.metrics(z, y, w, extra), rel=1e-12)


def test_f1_without_a_hit_is_0():
    t = yes_or_no()
    for nothing in (t, np.zeros_like(t)):
        found = SigmoidCrossEntropy().metrics(np.full((N, K), -1.0), nothing)
        assert found["f1"] == found["macro_f1"] == 0


@pytest.mark.parametrize("loss_function", [MSE(), MAE(), Huber(), Poisson()])
def test_regression_metrics(loss_function):
    t, w = counts(), rng(3).random(N)
    z = outputs(loss_function, t)
    y = loss_function.predict(z)
    found = loss_function.metrics(z, t, w)
    assert found["r2"] == pytest.approx(metrics.r2_score(t, y, sample_weight=w))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(t, y, sample_weight=w))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(t, y, sample_weight=w))
    assert ("deviance" in found) is isinstance(loss_function, Poisson)
    assert loss_function.metrics(z[:, :1], t[:, 0])["r2"] == pytest.approx(
        metrics.r2_score(t[:, 0], y[:, 0])
    )


def test_r2_of_constant_targets():
    constant = np.full(N, 2.0)
    assert MSE().metrics(np.full((N, 1), 2.0), constant)["r2"] == 1
    assert MSE().metrics(np.full((N, 1), 2.5), constant)["r2"] == 0


@pytest.mark.parametrize(
    ("loss_function", "targets", "n_outputs", "message"),
    [
        (SoftmaxCrossEntropy(), np.array([0, 2, 3, 5]), 3, "from 0 to 2, but row 2 is 3$"),
        (SoftmaxCrossEntropy(), np.array([0, -1]), 3, "row 1 is -1$"),
        (SoftmaxCrossEntropy(), np.array([0.0, 1.0]), 2, "must be integers .* got float64"),
        (SoftmaxCrossEntropy(), np.array([[0.5, 0.5], [0.5, 0.6]]), 2, "sum to 1, but row 1 is"),
        (SoftmaxCrossEntropy(), np.array([[0.5, 0.5], [-0.5, 1.5]]), 2, "at least 0 .* row 1 is"),
        (SoftmaxCrossEntropy(), np.array([[0.5, 0.5]]), 3, "need 2 outputs, not 3"),
        (SigmoidCrossEntropy(), np.array([0, 1, 2]), 1, "between 0 and 1, but row 2 is 2"),
        (MSE(), np.zeros((4, 2)), 1, r"shape \(4, 2\) need 2 outputs, not 1"),
        (MSE(), np.array([0.0, np.nan]), 1, "must be finite, but row 1 is nan"),
        (Poisson(), np.array([0.0, -2.0]), 1, r"must be at least 0, but row 1 is -2\.0"),
        (Pinball([0.2, 0.8]), np.zeros(3), 1, "need 2 outputs, not 1"),
    ],
)
def test_targets_that_do_not_fit_are_named_with_row_and_value(
    loss_function, targets, n_outputs, message
):
    with pytest.raises(ValueError, match=f"^targets .*{message}"):
        loss_function.check_targets(targets, n_outputs)


def test_class_weights_must_match_the_classes():
    with pytest.raises(ValueError, match=r"^class_weight has 2 numbers for 3 classes"):
        SoftmaxCrossEntropy(class_weight=[1.0, 2.0]).check_targets(labels(), 3)


def test_the_number_of_outputs_follows_from_the_targets():
    assert SoftmaxCrossEntropy().n_outputs(np.array([0, 4, 1])) == 5
    assert SoftmaxCrossEntropy().n_outputs(soft()) == K
    assert MSE().n_outputs(np.zeros(5)) == 1
    assert MSE().n_outputs(np.zeros((5, 2))) == 2
    assert Pinball([0.1, 0.9]).n_outputs(np.zeros(5)) == 2


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SoftmaxCrossEntropy, {"label_smoothing": 1.0}),
        (SoftmaxCrossEntropy, {"label_smoothing": -0.1}),
        (SoftmaxCrossEntropy, {"class_weight": [1.0, -1.0]}),
        (SoftmaxCrossEntropy, {"class_weight": [1.0, np.nan]}),
        (Huber, {"delta": 0.0}),
        (Pinball, {"quantile": 1.0}),
        (Pinball, {"quantile": [0.5, 0.0]}),
        (Pinball, {"quantile": []}),
    ],
)
def test_bad_arguments_are_named(make, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make(**options)


@pytest.mark.parametrize("loss_function", [MSE, MAE, Huber, Pinball])
def test_scaled_targets_are_a_change_of_unit(loss_function):
    rng = np.random.default_rng(0)
    y = rng.normal([1e6, -3], [10, 0.1], (50, 2))
    fitted = loss_function(scale_targets=True).fitted(y)
    t = (y - y.mean(axis=0)) / y.std(axis=0)
    z = rng.normal(size=(50, 2))
    loss, dz = fitted(z, y)
    expected, d_expected = loss_function()(z, t)
    assert np.isclose(loss, expected) and np.allclose(dz, d_expected)
    predicted = fitted.predict(z)
    assert np.allclose(predicted, y.mean(axis=0) + y.std(axis=0) * z)
    for name, value in loss_function().metrics(predicted, y).items():
        assert np.isclose(fitted.metrics(z, y)[name], value)
    assert fitted.predict(z.astype(np.float32)).dtype == np.float32
    loss32, _ = fitted(z.astype(np.float32), y)  # 1e6 +- 10 keeps its digits in float32
    assert np.isclose(loss32, expected, rtol=1e-5)
    assert loss_function().fitted(y) == loss_function() and loss_function().predict(z) is z


def test_equal_targets_are_centered_only():
    fitted = MSE(scale_targets=True).fitted(np.full(5, 7.1))
    assert fitted.center == [pytest.approx(7.1)] and fitted.scale == [1.0]
    assert fitted(np.zeros((5, 1)), np.full(5, 7.1))[0] < 1e-12


def test_targets_of_any_size_are_scaled():
    for unit in (1e-308, 1e-200, 1e36, 1e200):
        fitted = MSE(scale_targets=True).fitted(np.arange(5) * unit)
        assert fitted.center == [2 * unit] and 0 < fitted.scale[0] <= 4 * unit


def test_a_scale_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^scale must"):
        MSE(scale=0.0)
    with pytest.raises(ValueError, match=r"^center must"):
        Huber(center=[0.0, np.inf])


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: MSE(center=[]), "center"),
        (lambda: MSE(center=[[1.0]]), "center"),
        (lambda: MSE(center=[1.0, float("nan")]), "center"),
        (lambda: Huber(scale=[1.0, 0.0]), "scale"),
        (lambda: Huber(scale=[]), "scale"),
        (lambda: Pinball(quantile=[]), "quantile"),
        (lambda: Pinball(quantile=[[0.5]]), "quantile"),
    ],
)
def test_a_wrong_option_of_a_loss_is_named(make, parameter):
    with pytest.raises(ParameterError, match=f"^{parameter} must be ") as raised:
        make()
    assert raised.value.parameter == parameter


@pytest.mark.parametrize("name", ["center", "scale"])
def test_center_and_scale_must_fit_the_number_of_targets(name):
    loss = MSE(**{name: [1.0, 2.0]})
    loss.check_targets(np.ones((3, 2)), 2)
    with pytest.raises(ParameterError, match=f"^{name} has 2 numbers for 1 targets"):
        loss.check_targets(np.ones(3), 1)
    with pytest.raises(ParameterError, match=f"^{name} has 2 numbers for 3 targets"):
        loss.check_targets(np.ones((2, 3)), 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_out_of_range_are_refused_also_without_a_check_before(dtype, wrong):
    logits = rng().normal(size=(4, 3)).astype(dtype)
    for loss_function in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy(class_weight=[1, 2, 3])):
        with pytest.raises((ValueError, IndexError)):
            loss_function(logits, np.array([0, 1, wrong, 2]))


def weights_or_none(n, weighted):
    return rng(5).integers(0, 4, n).astype(float) if weighted else None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_metrics_of_classes_are_scikit_learns(n_classes, weighted):
    n = 200
    z = 2 * rng(3).normal(size=(n, n_classes))
    t = rng(4).integers(0, n_classes, n)
    w = weights_or_none(n, weighted)
    loss_function = SoftmaxCrossEntropy(label_smoothing=0.1)
    found = loss_function.metrics(z, t, w, extra=loss_function.extra_metric_names)
    p, y = scipy_softmax(z, axis=1), z.argmax(axis=1)
    scores = {"y_score": p[:, 1]} if n_classes == 2 else {"y_score": p, "multi_class": "ovr"}
    one_hot = np.eye(n_classes)[t]
    brier = np.average(((p - one_hot) ** 2).sum(axis=1), weights=w)
    expected = {
        "accuracy": metrics.accuracy_score(t, y, sample_weight=w),
        "balanced_accuracy": metrics.balanced_accuracy_score(t, y, sample_weight=w),
        "macro_f1": metrics.f1_score(t, y, average="macro", sample_weight=w),
        "roc_auc": np.mean(
            [metrics.roc_auc_score(t == j, p[:, j], sample_weight=w) for j in range(n_classes)]
        ),
        "log_loss": metrics.log_loss(t, p, sample_weight=w),
        "brier": brier / 2 if n_classes == 2 else brier,
    }
    assert found == pytest.approx(expected, rel=1e-9)
    if not weighted:
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(t, **scores), rel=1e-12)
    if n_classes == 2:
        binary = SigmoidCrossEntropy()
        one = binary.metrics(z[:, 1:] - z[:, :1], t, w, extra=binary.extra_metric_names)
        shared = {"accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "brier"}
        assert {k: one[k] for k in shared} == pytest.approx({k: found[k] for k in shared})
        assert one["f1"] == pytest.approx(metrics.f1_score(t, y, sample_weight=w))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_several_labels_are_scikit_learns(weighted):
    z, t = rng(3).normal(size=(100, 4)), rng(4).integers(0, 2, (100, 4))
    t[:, 3], z[:, 2] = 0, -1.0  # a label that never occurs, one that is never found
    w, y = weights_or_none(100, weighted), (z > 0).astype(int)
    found = SigmoidCrossEntropy().metrics(z, t, w, extra=("roc_auc",))
    assert found == pytest.approx({
        "accuracy": metrics.accuracy_score(t, y, sample_weight=w),
        "f1": metrics.f1_score(t, y, average="micro", sample_weight=w),
        "macro_f1": metrics.f1_score(t, y, average="macro", sample_weight=w, zero_division=0),
        "balanced_accuracy": np.mean([
            metrics.recall_score(t[:, j], y[:, j], average="macro", sample_weight=w,
                                 labels=np.unique(t[:, j])) for j in range(4)
        ]),
        "roc_auc": np.mean(
            [metrics.roc_auc_score(t[:, j], z[:, j], sample_weight=w) for j in range(3)]
        ),
    })  # fmt: skip


def test_metrics_that_the_rows_do_not_define():
    z, t = rng().normal(size=(5, 3)), np.ones(5, np.int64)
    found = SoftmaxCrossEntropy().metrics(z, t, extra=("roc_auc",))
    assert np.isnan(found["roc_auc"])
    assert np.isfinite([found["balanced_accuracy"], found["macro_f1"]]).all()
    two = np.array([0, 0, 2, 2, 2])  # a class without rows does not count
    area = SoftmaxCrossEntropy().metrics(z, two, extra=("roc_auc",))["roc_auc"]
    p = scipy_softmax(z, axis=1)
    assert area == pytest.approx(
        np.mean([metrics.roc_auc_score(two == j, p[:, j]) for j in (0, 2)])
    )


@pytest.mark.parametrize(("loss_function", "targets"), CASES)
def test_a_loss_says_which_way_its_figures_are_better(loss_function, targets):
    """Outputs that fit the targets better have better figures."""
    names = loss_function.figure_names()
    t = targets()
    model_outputs = loss_function.n_outputs(t)
    good = np.zeros((N, model_outputs))
    for _ in range(300):
        good -= 2.0 * loss_function(good, t)[1]
    bad = 3 * rng(9).normal(size=good.shape)
    extra = loss_function.extra_metric_names
    before = loss_and_metrics(loss_function, bad, t, extra=extra)
    after = loss_and_metrics(loss_function, good, t, extra=extra)
    for name in names:
        sign = -1 if name in loss_function.lower_is_better else 1
        assert sign * after[name] > sign * before[name], name


def test_class_weights_with_smoothing_weigh_rows():
    """The formulas in the docstring: ours, and PyTorch's beside it."""
    z, t, c, s = rng().normal(size=(8, 3)), rng(1).integers(0, 3, 8), np.array([1.0, 2.0, 5.0]), 0.1
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    soft = (1 - s) * np.eye(3)[t] + s / 3
    ours = np.sum(c[t] * -(soft * log_p).sum(axis=1)) / c[t].sum()
    pytorchs = np.sum(-(c * soft * log_p).sum(axis=1)) / c[t].sum()
    assert SoftmaxCrossEntropy(s, c)(z, t)[0] == pytest.approx(ours)
    assert abs(ours - pytorchs) > 1e-3
    plain = np.sum(-(c * np.eye(3)[t] * log_p).sum(axis=1)) / c[t].sum()
    assert SoftmaxCrossEntropy(0.0, c)(z, t)[0] == pytest.approx(plain)


@pytest.mark.parametrize("weighted", [False, True])
def test_roc_auc_with_ties_is_scikit_learns(weighted):
    scores, positive = rng(3).integers(0, 6, 100), rng(4).integers(0, 2, 100) == 1
    w = weights_or_none(100, weighted)
    expected = metrics.roc_auc_score(positive, scores, sample_weight=w)
    assert roc_auc(scores, positive, w) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(roc_auc(scores, np.ones(100, bool), w))


class Doubled(SigmoidCrossEntropy):
    def _elementwise(self, z, t):
        losses, slopes = super()._elementwise(z, t)
        return 2 * losses, 2 * slopes


class DoubledRows(SoftmaxCrossEntropy):
    def _rows(self, logits, targets, share):
        losses, dlogits = super()._rows(logits, targets, share)
        return 2 * losses, 2 * dlogits


@pytest.mark.parametrize(
    ("own", "logits", "targets"),
    [
        (Doubled(), [[0.5], [-2.0]], np.array([1.0, 0.0])),
        (DoubledRows(), [[0.5, 1.0], [-2.0, 0.0]], np.array([1, 0])),
    ],
)
def test_a_subclass_of_a_cross_entropy_has_its_own_formula(own, logits, targets):
    loss, dlogits = type(own).__base__()(np.array(logits), targets)
    found, slopes = own(np.array(logits), targets)
    assert found == pytest.approx(2 * loss)
    assert np.allclose(slopes, 2 * dlogits)
