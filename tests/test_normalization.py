from __future__ import annotations

import numpy as np
import pytest

from minidl.layers import BatchNorm, LayerNorm, RMSNorm, Scale

X = np.random.default_rng(0).normal(3, 2, size=(50, 6))


def test_scale_multiplies_each_feature():
    layer = Scale(6, dtype=np.float64)
    layer.gamma[:] = range(6)
    assert np.array_equal(layer.forward(X), X * np.arange(6))


@pytest.mark.parametrize(("layer", "axis"), [(LayerNorm, 1), (BatchNorm, 0)])
def test_mean_0_and_variance_1_along_the_axis(layer, axis):
    y = layer(6, eps=1e-12, dtype=np.float64).forward(X)
    assert np.allclose(y.mean(axis=axis), 0, atol=1e-14)
    assert np.allclose(y.var(axis=axis), 1)


def test_rms_norm_divides_by_the_root_mean_square():
    y = RMSNorm(6, eps=1e-12, dtype=np.float64).forward(X)
    assert np.allclose(y, X / np.sqrt((X**2).mean(axis=1, keepdims=True)))


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm, BatchNorm])
def test_gamma_scales_and_beta_shifts(make):
    plain, changed = make(6, dtype=np.float64), make(6, dtype=np.float64)
    changed.gamma[:] = np.arange(6)
    expected = plain.forward(X) * np.arange(6)
    if make is not RMSNorm:
        changed.beta[:] = np.arange(6) - 2
        expected += np.arange(6) - 2
    assert np.allclose(changed.forward(X), expected, rtol=1e-14)


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_rows_are_treated_alike_in_training_and_after_it(make):
    layer = make(6, dtype=np.float64)
    assert np.array_equal(layer.forward(X), layer.forward(X, train=False))


def test_eps_bounds_what_a_constant_row_or_feature_is_multiplied_with():
    for make in (LayerNorm, BatchNorm):
        assert np.abs(make(6, dtype=np.float64).forward(np.full((4, 6), 0.1))).max() < 1e-14
    tiny = np.full((1, 6), 1e-8)
    assert np.allclose(RMSNorm(6, eps=1e-4, dtype=np.float64).forward(tiny), 1e-6)


def test_running_statistics_follow_their_recurrence():
    layer = BatchNorm(6, momentum=0.3, dtype=np.float64)
    mean, var = np.zeros(6), np.ones(6)
    for batch in (X[:10], X[10:17], X[17:]):
        layer.forward(batch)
        mean = 0.7 * mean + 0.3 * batch.mean(axis=0)
        var = 0.7 * var + 0.3 * batch.var(axis=0, ddof=1)
    assert np.allclose(layer.running_mean, mean, rtol=1e-13)
    assert np.allclose(layer.running_var, var, rtol=1e-13)


def test_running_statistics_stand_in_after_training_and_stay():
    layer = BatchNorm(6, momentum=1.0, dtype=np.float64)
    layer.forward(X)
    kept = layer.running_mean.copy(), layer.running_var.copy()
    y = layer.forward(X[:1], train=False)
    expected = (X[:1] - X.mean(axis=0)) / np.sqrt(X.var(axis=0, ddof=1) + layer.eps)
    assert np.allclose(y, expected, rtol=1e-13)
    assert np.array_equal(layer.running_mean, kept[0])
    assert np.array_equal(layer.running_var, kept[1])


def test_running_statistics_are_changed_where_they_lie():
    layer = BatchNorm(6, dtype=np.float64)
    views = layer.running_mean, layer.running_var
    layer.forward(X)
    assert layer.running_mean is views[0]
    assert layer.running_var is views[1]
    assert np.all(views[0] != 0)


def test_batch_norm_refuses_a_training_batch_of_one_row():
    layer = BatchNorm(6)
    with pytest.raises(ValueError, match=r"at least 2 rows for BatchNorm in training, got 1"):
        layer.forward(np.ones((1, 6), np.float32))
    assert np.all(layer.running_mean == 0)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (LayerNorm, {"eps": 0.0}),
        (RMSNorm, {"eps": np.inf}),
        (BatchNorm, {"eps": -1.0}),
        (BatchNorm, {"momentum": 0.0}),
        (BatchNorm, {"momentum": 1.5}),
    ],
)
def test_bad_arguments_are_named(make, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make(6, **options)
