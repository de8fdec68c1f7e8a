from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_matrix

from minidl import kernels
from minidl.data.warping import Affine, Elastic, PixelMap, Warper, bilinear


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 12, 3)])
def test_warped_images_are_what_scipy_interpolates(shape):
    height, width, channels = shape
    rng = np.random.default_rng(0)
    field = rng.normal(0, 3, (2, 2, height, width))
    pixels, weights = bilinear(field)
    image = rng.uniform(1, 200, (height * width, channels))
    place = np.indices((height, width))
    for i in range(2):
        found = (weights[i][..., None] * image[pixels[i]]).sum(axis=2)
        for channel in range(channels):
            # grid-constant: zeros all around, also where an image meets them half a pixel out
            expected = map_coordinates(
                image[:, channel].reshape(height, width),
                place + field[i],
                order=1,
                mode="grid-constant",
            )
            assert np.allclose(found[..., channel], expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_map_is_applied_as_a_sparse_matrix_of_scipy(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    data, indices = rng.random(4 * 30, np.float32), rng.integers(0, 30, 4 * 30, np.int32)
    x = rng.standard_normal((30, 7)).astype(dtype)
    S = PixelMap(data.astype(dtype), indices, np.arange(0, 121, 4, dtype=np.int32), (30, 30))
    expected = csr_matrix((S.data, S.indices, S.indptr), S.shape) @ x
    assert np.array_equal(kernels.sparse_affine(S, x, None, np.empty_like(x)), expected)
    monkeypatch.setattr(kernels, "_compiled", kernels.NUMPY_ALONE)
    assert np.array_equal(kernels.sparse_affine(S, x, None, np.empty_like(x)), expected)


def test_the_displacements_of_an_affine_map_are_its_equation():
    affine = Affine(rotation=30, scale=0.5, shear=0.3, shift=2.0)
    fields = affine.displacements(np.random.default_rng(0), 500, 11, 8)
    y, x = np.indices((11, 8)).reshape(2, -1) - np.array([[5.0], [3.5]])
    design = np.stack([y, x, np.ones_like(x)], axis=1)
    maps, residuals, _, _ = np.linalg.lstsq(
        design, fields.reshape(1000, -1).T + np.tile(np.stack([y, x], axis=1), 500), rcond=None
    )
    assert residuals.max() < 1e-20
    A = maps[:2].T.reshape(500, 2, 2)  # source = A @ (y, x)
    assert 1.8 < np.abs(maps[2]).max() <= 2.0
    # A = R @ K @ D: its second column is R's times s_x
    angle = np.rad2deg(np.arctan2(-A[:, 0, 1], A[:, 1, 1]))
    assert 29 < np.abs(angle).max() <= 30
    assert abs(angle.mean()) < 3
    s_x = np.hypot(A[:, 0, 1], A[:, 1, 1])
    s_y = np.linalg.det(A) / s_x
    assert abs(np.corrcoef(s_x, s_y)[0, 1]) < 0.2
    for s in (s_x, s_y):
        assert 1 / 1.5 <= s.min() < 0.68 and 1.48 < s.max() <= 1.5
    k = (A[:, :, 0] * A[:, :, 1]).sum(axis=1) / (s_x * s_y)
    assert 0.29 < np.abs(k).max() <= 0.3


def test_warps_of_large_images_are_kept_in_bounds():
    tracemalloc.start()
    warper = Warper(Elastic(), (600, 500, 1), lambda k: np.random.default_rng(k))
    warper(np.zeros((2, 300_000), np.uint8), 0, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # 64 of them would take 600e6


@pytest.mark.parametrize("sigma", [0.1, 2.0, 50.0])
def test_elastic_fields_have_the_stated_deviation_everywhere(sigma):
    fields = Elastic(displacement=1.5, sigma=sigma).displacements(
        np.random.default_rng(0), 2000, 20, 9
    )
    assert fields.shape == (2000, 2, 20, 9)
    assert np.allclose(fields.std(axis=0), 1.5, rtol=0.08)
    y, x = fields[:, 0].ravel(), fields[:, 1].ravel()
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.1
    below = (fields[:, :, 9] * fields[:, :, 10]).mean() / 1.5**2
    assert abs(below - np.exp(-1 / (4 * sigma**2))) < 0.02  # that of a smoothed white noise
