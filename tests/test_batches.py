from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from minidl.data.batches import CHUNK_BYTES, Batches, Rows, batch_bounds

N = 103


def make_rows(kind="float32", n=N, n_features=6, weighted=True):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (n, n_features)).astype(np.uint8)
    if kind == "csr":
        X = csr_matrix(np.where(X > 128, X, 0).astype(np.float32))
    elif kind == "fortran":
        X = np.asfortranarray(X.astype(np.float32))
    elif kind == "strided":
        X = np.repeat(X, 2, axis=1)[:, ::2]
    elif kind != "uint8":
        X = X.astype(kind)
    return Rows(X, rng.integers(0, 3, n), rng.uniform(0.5, 2, n) if weighted else None)


def dense(X):
    return X if isinstance(X, np.ndarray) else X.toarray()


def copied(batch):
    """The batch as arrays of its own: the next one may be gathered over it."""
    return Rows(*(None if part is None else dense(part).copy() for part in batch))


def gathered(batches, order, first_batch=0, first_step=0):
    return [copied(batch) for batch in batches.in_order(order, first_batch, first_step)]


def assert_equal(batch, expected):
    for part, right in zip(batch, expected, strict=True):
        assert (part is None) == (right is None)
        assert right is None or np.array_equal(part, right)


@pytest.mark.parametrize(
    ("n", "batch_size", "expected"),
    [
        (6, 2, [(0, 2), (2, 4), (4, 6)]),
        (7, 3, [(0, 3), (3, 7)]),  # a single row that is left over joins
        (8, 3, [(0, 3), (3, 6), (6, 8)]),
        (3, 10, [(0, 3)]),
        (1, 10, [(0, 1)]),
        (0, 10, []),
    ],
)
def test_bounds_of_batches(n, batch_size, expected):
    assert batch_bounds(n, batch_size) == expected


def test_a_single_row_is_left_alone_where_asked():
    assert batch_bounds(7, 3, join_single_row=False) == [(0, 3), (3, 6), (6, 7)]
    assert len(Batches(make_rows(n=7), batch_size=3, dtype="f4", join_single_row=False)) == 3
    assert len(Batches(make_rows(n=7), batch_size=3, dtype="f4")) == 2


@pytest.mark.parametrize("batch_size", [1, 7, 34, 102, 200])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "csr", "fortran", "strided"])
def test_batches_are_the_rows_in_order(kind, weighted, batch_size):
    rows = make_rows(kind, weighted=weighted)
    order = np.random.default_rng(1).permutation(N)
    batches = Batches(rows, batch_size=batch_size, dtype=np.float32)
    bounds = batch_bounds(N, batch_size)
    assert len(batches) == len(bounds)
    found = gathered(batches, order)
    assert len(found) == len(bounds)
    for (start, stop), batch in zip(bounds, found, strict=True):
        taken = order[start:stop]
        X, y, weight = rows.select(taken)
        assert batch.X.dtype == np.float32
        assert_equal(batch, Rows(dense(X).astype(np.float32), y, weight))
    for first in range(len(bounds)):
        for batch, expected in zip(gathered(batches, order, first), found[first:], strict=True):
            assert_equal(batch, expected)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_gathering_in_chunks_changes_nothing(kind):
    """Rows so wide that a chunk holds one batch, and so narrow that it holds them all."""
    wide, narrow = CHUNK_BYTES // 4 // 8, 3
    for n_features in (wide, wide // 3, narrow):
        rows = make_rows(kind, n=41, n_features=n_features)
        order = np.random.default_rng(1).permutation(41)
        batches = Batches(rows, batch_size=8, dtype=np.float32, transform=lambda x: x / 255)
        found = gathered(batches, order)
        whole = (rows.X[order] / 255).astype(np.float32)
        assert np.array_equal(np.concatenate([batch.X for batch in found]), whole)
        assert np.array_equal(np.concatenate([batch.y for batch in found]), rows.y[order])


def test_a_transform_that_makes_many_columns_is_given_few_rows_at_once():
    wide, sizes = 4096, []

    def widen(x):
        sizes.append(len(x))
        return np.repeat(x, wide // 6, axis=1)

    rows = make_rows("float32", n=1000)
    batches = Batches(rows, batch_size=16, dtype=np.float32, transform=widen)
    assert len(gathered(batches, np.arange(1000))) == 63
    assert max(sizes) * wide * 4 <= CHUNK_BYTES + wide * 4 * 16


def test_rows_stay_as_they_were():
    rows = make_rows("uint8")
    before = rows.X.copy()

    def spoil(x):
        x[:] = 0
        return x

    gathered(Batches(rows, batch_size=10, dtype=np.float32, transform=spoil), np.arange(N))
    assert np.array_equal(rows.X, before)


def test_rows_may_come_more_than_once():
    rows = make_rows()
    order = np.random.default_rng(1).integers(0, N, N)
    found = gathered(Batches(rows, batch_size=N, dtype=np.float32), order)
    assert_equal(found[0], rows.select(order))


@pytest.mark.parametrize(
    "order", [np.arange(N - 1), np.arange(N) - 1, np.arange(N) + 1, np.arange(N)[:, None]]
)
def test_an_order_of_other_rows_is_refused(order):
    batches = Batches(make_rows(), batch_size=10, dtype=np.float32)
    with pytest.raises(ValueError, match=f"^order must be {N} indices of rows"):
        gathered(batches, order)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_distortions_are_keyed_by_the_step_and_come_before_the_transform(kind):
    rows, calls = make_rows(kind), []

    def augment(x, step, first_row):
        calls.append((step, first_row, x.dtype))
        return x + np.array(step, x.dtype)

    batches = Batches(
        rows, batch_size=10, dtype=np.float32, augment=augment, transform=lambda x: x * 2.0
    )
    order = np.random.default_rng(1).permutation(N)
    found = gathered(batches, order, first_batch=3, first_step=53)
    assert calls == [(step, 0, rows.X.dtype) for step in range(53, 61)]
    for i, batch in enumerate(found):
        taken = rows.X[order[30 + 10 * i :][: len(batch.X)]]
        assert np.array_equal(batch.X, (taken + np.array(53 + i, taken.dtype)) * 2.0)


def test_targets_may_have_columns():
    rows = Rows(make_rows().X, np.arange(2.0 * N).reshape(N, 2))
    order = np.arange(N)[::-1].copy()
    found = gathered(Batches(rows, batch_size=20, dtype=np.float32), order)
    assert np.array_equal(np.concatenate([batch.y for batch in found]), rows.y[order])
