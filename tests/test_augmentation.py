from __future__ import annotations

import numpy as np
import pytest

from minidl.data.augmentation import (
    AUGMENTATIONS,
    Erasing,
    ImageAugmentation,
    Mixup,
    Shift,
    ShiftedViews,
)
from minidl.data.batches import Rows
from minidl.data.warping import BLOCK_ROWS, WARP_STEPS, WARPS, Affine, Elastic
from minidl.losses import SoftmaxCrossEntropy

SHAPES = [(28, 28, 1), (8, 8, 1), (7, 12, 3), (1, 5, 2)]


def images(shape, n=100, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 200, (n, int(np.prod(shape)))).astype(dtype)


def augmentation(*steps, shape=(28, 28, 1), seed=0):
    return ImageAugmentation(steps, shape, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_rows_are_drawn_by_seed_step_and_place_only(name, dtype, shape):
    X = images(shape, dtype=dtype)
    before = X.copy()
    changed = augmentation(AUGMENTATIONS[name](), shape=shape)(X, 7)
    assert changed.shape == X.shape
    assert changed.dtype == (np.result_type(dtype, np.float32) if name in WARPS else dtype)
    assert np.array_equal(X, before)
    again = augmentation(AUGMENTATIONS[name](), shape=shape)
    for step in (3, 3000, 7):  # in any order of steps, as after a resume
        assert (again(X, step).tobytes() == changed.tobytes()) == (step == 7)
    for cut in (1, 40, 64, 99):  # and in any parts
        parts = [again(X[:cut], 7, 0), again(X[cut:], 7, cut)]
        assert np.concatenate(parts).tobytes() == changed.tobytes()
    other = augmentation(AUGMENTATIONS[name](), shape=shape, seed=1)
    assert not np.array_equal(other(X, 7), changed)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_moves_whole_pixels_by_each_amount_as_often(shape):
    height, width, _ = shape
    n = 40 * BLOCK_ROWS
    X = images(shape, n)
    moved = augmentation(Shift(2), shape=shape)(X, 0).reshape(-1, *shape)
    assert moved.dtype == np.uint8
    padded = np.pad(X.reshape(-1, *shape), ((0, 0), (2, 2), (2, 2), (0, 0)))
    found = set()
    for start in range(0, n, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        same = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(padded[rows, dy : dy + height, dx : dx + width], moved[rows])
        ]
        assert same
        found.update(same)
    assert len(found) >= 15


@pytest.mark.parametrize("shape", SHAPES)
def test_erasing_sets_one_rectangle_in_a_share_of_the_images(shape):
    X = images(shape, 4000)
    erased = augmentation(Erasing(p=0.4, size=0.5), shape=shape)(X, 0).reshape(-1, *shape)
    holes = erased == 0
    assert np.array_equal(erased[~holes], X.reshape(erased.shape)[~holes])
    assert np.array_equal(holes.any(axis=3), holes.all(axis=3))
    holes = holes[..., 0]
    rows, columns = holes.any(axis=2), holes.any(axis=1)
    assert np.array_equal(holes, rows[:, :, None] & columns[:, None, :])
    for stretch in (rows, columns):
        assert (np.abs(np.diff(stretch.astype(int), axis=1)).sum(axis=1) <= 2).all()
        largest = max(1, stretch.shape[1] // 2)
        assert set(stretch.sum(axis=1)) == set(range(largest + 1))
        assert stretch.any(axis=0).all()
    hit = holes.any(axis=(1, 2))
    assert abs(hit.mean() - 0.4) < 0.03
    if min(shape[:2]) > 1:
        sizes = [stretch[hit].sum(axis=1) for stretch in (rows, columns)]
        assert abs(np.corrcoef(sizes)[0, 1]) < 0.1


def test_warps_are_applied_to_blocks_and_change_with_the_steps():
    shape = (9, 8, 3)
    X = np.repeat(images(shape, 1), 4 * BLOCK_ROWS, axis=0)
    warp = augmentation(Affine(), Elastic(), shape=shape)
    kinds = set()
    for step in (*range(4), WARP_STEPS, WARP_STEPS + 1):
        blocks = np.asarray(warp(X, step)).reshape(4, BLOCK_ROWS, -1)
        assert (blocks == blocks[:, :1]).all()
        kinds.update(block[0].tobytes() for block in blocks)
    assert len(kinds) == 6 * 4
    one_channel = augmentation(Affine(), Elastic(), shape=(9, 8, 1))
    assert np.allclose(warp(X, 5)[:, 1::3], one_channel(X[:, 1::3], 5), rtol=1e-6)


def test_settings_of_zero_leave_images_as_they_are():
    X = images((7, 12, 3))
    still = Affine(rotation=0, scale=0, shear=0, shift=0)
    assert np.array_equal(augmentation(still, shape=(7, 12, 3))(X, 3), X)
    assert not np.array_equal(augmentation(still, Elastic(), shape=(7, 12, 3))(X, 3), X)


def test_steps_of_a_list_follow_each_other():
    X = images((8, 8, 1))
    rng = np.random.default_rng(0)
    both = ImageAugmentation([Shift(2), Erasing(p=1.0)], (8, 8, 1), rng=rng)
    rng = np.random.default_rng(0)
    shift = ImageAugmentation([Shift(2)], (8, 8, 1), rng=rng)
    erase = ImageAugmentation([Erasing(p=1.0)], (8, 8, 1), rng=rng)
    assert np.array_equal(both(X, 4), erase(shift(X, 4), 4))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Shift(0), "pixels"),
        (lambda: Affine(rotation=-1), "rotation"),
        (lambda: Affine(scale=-0.1), "scale"),
        (lambda: Affine(shear=np.nan), "shear"),
        (lambda: Affine(shift=np.inf), "shift"),
        (lambda: Elastic(displacement=0), "displacement"),
        (lambda: Elastic(sigma=0), "sigma"),
        (lambda: Erasing(p=1.1), "p"),
        (lambda: Erasing(size=0), "size"),
        (lambda: Mixup(0, 3, rng=np.random.default_rng(0)), "alpha"),
        (lambda: augmentation(Shift())(np.zeros((3, 783)), 0), "X"),
    ],
)
def test_what_is_out_of_range_is_named(make, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()


def test_mixup_mixes_pairs_with_one_share():
    rng = np.random.default_rng(0)
    batch = Rows(rng.normal(size=(7, 4)).astype(np.float32), rng.integers(0, 3, 7))
    mixup = Mixup(1.0, 3, rng=np.random.default_rng(1))
    X, t, weight = mixup(batch, 5)
    assert weight is None and X.dtype == t.dtype == np.float32
    assert np.allclose(t.sum(axis=1), 1)
    assert np.allclose(X[3], batch.X[3])  # the middle one is its own pair
    assert np.isclose(t[3, batch.y[3]], 1)
    share = np.linalg.lstsq(
        (batch.X - batch.X[::-1]).reshape(-1, 1), (X - batch.X[::-1]).ravel(), rcond=None
    )[0][0]
    assert 0 < share < 1
    one_hot = np.eye(3)[batch.y]
    assert np.allclose(t, share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6)
    assert np.array_equal(mixup(batch, 5).X, X)
    assert not np.array_equal(mixup(batch, 6).X, X)


def test_mixup_shares_follow_the_beta_distribution():
    batch = Rows(np.array([[1.0], [0.0]]), np.array([1.0, 0.0]))
    mixup = Mixup(0.3, None, rng=np.random.default_rng(0))
    shares = np.array([mixup(batch, step).y[0] for step in range(2000)])
    assert abs(shares.mean() - 0.5) < 0.05
    assert abs(shares.var() - 1 / (4 * (2 * 0.3 + 1))) < 0.02


def test_weighted_mixup_has_the_loss_of_both_rows_weighted():
    rng = np.random.default_rng(0)
    labels, weight = rng.integers(0, 3, 6), np.array([2.0, 0, 1, 3, 0, 0.5])
    mixed = Mixup(1.0, 3, rng=np.random.default_rng(1))(Rows(np.zeros((6, 2)), labels, weight), 0)
    plain = Mixup(1.0, 3, rng=np.random.default_rng(1))(Rows(np.zeros((6, 2)), labels), 0)
    share = plain.y[0, labels[0]] if labels[0] != labels[5] else None
    assert share is not None
    z, loss_function = rng.normal(size=(6, 3)), SoftmaxCrossEntropy()
    total = (
        share * loss_function(z, labels, weight)[0]
        + (1 - share) * loss_function(z, labels[::-1], weight[::-1])[0]
    )
    assert np.isclose(loss_function(z, mixed.y, mixed.sample_weight)[0], total)


def test_views_are_the_images_moved_every_way():
    X = images((5, 4, 2), 3, np.float64)
    seen = list(ShiftedViews((5, 4, 2), 1)(X))
    padded = np.pad(X.reshape(3, 5, 4, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [padded[:, dy : dy + 5, dx : dx + 4] for dy in range(3) for dx in range(3)]
    assert len(seen) == 9 and all(rows.shape == X.shape for rows in seen)
    assert {rows.tobytes() for rows in seen} == {rows.tobytes() for rows in expected}


@pytest.mark.parametrize("pixels", [0, 4])
def test_views_refuse_moves_of_nothing_and_of_everything(pixels):
    with pytest.raises(ValueError, match=f"pixels must be in 1 to 3, got {pixels}"):
        ShiftedViews((5, 4, 2), pixels)
