from __future__ import annotations

import numpy as np
import pytest

from minidl.layers import Dropout, GaussianNoise


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mask(layer: Dropout, step: int, first_row: int, n_rows: int, n_features: int) -> np.ndarray:
    layer.begin_step(step, first_row)
    return layer.forward(np.ones((n_rows, n_features))) != 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_zeroed_and_the_mean_is_kept(p):
    x = np.ones((1000, 200))
    y = Dropout(p, rng=rng()).forward(x)
    kept = y[y != 0]
    error = 4 * np.sqrt(p * (1 - p) / x.size)
    assert abs(1 - kept.size / x.size - p) < error
    assert np.all(kept == kept[0])
    assert kept[0] == pytest.approx(1 / (1 - p), rel=1e-4)
    assert abs(y.mean() - 1) < error / (1 - p) + 1e-4


def test_a_probability_is_rounded_to_the_bits_drawn():
    y = Dropout(0.3, rng=rng()).forward(np.ones((50, 50)))
    assert y.max() == 65536 / (65536 - round(0.3 * 65536))
    assert np.isfinite(Dropout(1 - 1e-12, rng=rng()).forward(np.ones((50, 50)))).all()


@pytest.mark.parametrize("n_features", [1, 15, 16, 17, 40])
def test_a_row_has_its_mask_whoever_draws_it(n_features):
    layer = Dropout(0.5, rng=rng())
    whole = mask(layer, 5, 0, 12, n_features)
    for first, last in ((0, 7), (7, 8), (8, 12)):
        assert np.array_equal(mask(layer, 5, first, last - first, n_features), whole[first:last])


def test_masks_differ_by_step_row_and_layer():
    layer = Dropout(0.5, rng=rng())
    masks = [mask(layer, 0, 0, 8, 100), mask(layer, 1, 0, 8, 100), mask(layer, 0, 8, 8, 100)]
    masks.append(mask(Dropout(0.5, rng=rng(1)), 0, 0, 8, 100))
    rows = np.concatenate(masks)
    agreement = (rows[:, None] == rows[None]).mean(axis=2)[np.triu_indices(len(rows), 1)]
    assert np.all(np.abs(agreement - 0.5) < 0.25)  # five standard deviations


def test_one_generator_gives_each_layer_noise_of_its_own():
    source = rng()
    first, second = Dropout(0.5, rng=source), Dropout(0.5, rng=source)
    assert not np.array_equal(mask(first, 0, 0, 4, 50), mask(second, 0, 0, 4, 50))
    assert np.array_equal(mask(first, 0, 0, 4, 50), mask(Dropout(0.5, rng=rng()), 0, 0, 4, 50))


def test_each_training_forward_moves_on_by_itself():
    layer, x = Dropout(0.5, rng=rng()), np.ones((4, 50))
    first = layer.forward(x)
    layer.forward(x, train=False)
    second = layer.forward(x)
    assert not np.array_equal(first, second)
    assert np.array_equal(first != 0, mask(layer, 0, 0, 4, 50))
    assert np.array_equal(second != 0, mask(layer, 1, 0, 4, 50))


def test_the_gradient_goes_where_the_input_went():
    layer = Dropout(0.5, rng=rng())
    x, dy = rng(1).normal(size=(2, 4, 50))
    y = layer.forward(x)
    assert np.array_equal(layer.backward(dy), np.where(y != 0, 2 * dy, 0))


def test_outside_training_and_at_p_0_nothing_is_dropped():
    x = rng(1).normal(size=(4, 50))
    assert np.array_equal(Dropout(0.5, rng=rng()).forward(x, train=False), x)
    assert np.array_equal(Dropout(0.0, rng=rng()).forward(x), x)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, np.nan])
def test_p_must_leave_something(p):
    with pytest.raises(ValueError, match=r"^p must be in \[0, 1\), got"):
        Dropout(p, rng=rng())


def test_masks_are_the_same_on_every_machine_and_in_every_version():
    assert mask(Dropout(0.5, rng=rng()), 3, 2, 2, 12).astype(int).tolist() == [
        [0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0],
        [0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1],
    ]


# --- Gaussian noise


def noise(step: int, first_row: int, n_rows: int, n_features: int = 20) -> np.ndarray:
    layer = GaussianNoise(1.0, rng=rng())
    layer.begin_step(step, first_row)
    return layer.forward(np.zeros((n_rows, n_features)))


def test_gaussian_noise_is_normal_with_its_deviation():
    x = rng(1).normal(size=(2000, 100))
    e = (GaussianNoise(0.3, rng=rng()).forward(x) - x) / 0.3
    n = e.size
    assert abs(e.mean()) < 4 / np.sqrt(n)
    assert abs(e.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((e**4).mean() - 3) < 4 * np.sqrt(96 / n)
    for z, p in ((-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134), (2, 0.97725)):
        assert abs((e < z).mean() - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_gaussian_noise_of_a_row_depends_on_its_place_alone():
    whole = noise(5, 0, 12)
    for first, last in ((0, 7), (7, 8), (8, 12)):
        assert np.array_equal(noise(5, first, last - first), whole[first:last])
    assert abs(np.corrcoef(whole.ravel(), noise(6, 0, 12).ravel())[0, 1]) < 0.35


def test_gaussian_noise_lets_the_gradient_pass_and_is_for_training_only():
    layer = GaussianNoise(0.5, rng=rng())
    x, dy = rng(1).normal(size=(2, 4, 50)).astype(np.float32)
    y = layer.forward(x)
    assert y.dtype == np.float32 and not np.any(y == x)
    assert np.array_equal(layer.backward(dy), dy)
    assert np.array_equal(layer.forward(x, train=False), x)
    assert np.array_equal(GaussianNoise(0.0, rng=rng()).forward(x), x)


@pytest.mark.parametrize("std", [-0.1, np.inf, np.nan])
def test_the_deviation_must_be_a_size(std):
    with pytest.raises(ValueError, match=r"^std must be at least 0, got"):
        GaussianNoise(std, rng=rng())
