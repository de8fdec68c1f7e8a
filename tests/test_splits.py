from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from minidl.data.batches import Rows
from minidl.data.dataset import Dataset
from minidl.data.splits import split
from minidl.errors import DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labelled(counts: list[int], seed: int = 0) -> Dataset:
    y = rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    X = np.arange(2.0 * len(y)).reshape(-1, 2)
    return Dataset("table", X, y, classes=tuple("abcdefghijkl"[: len(counts)]))


def regression(n_samples: int = 50) -> Dataset:
    return Dataset("line", np.arange(2.0 * n_samples).reshape(-1, 2), np.arange(1.0 * n_samples))


def numbers(part: Rows) -> np.ndarray:
    """Which rows of `labelled` or `regression` are in a part: their first column tells."""
    return (part.X[:, 0] / 2).astype(int)


def test_each_class_keeps_its_share_within_one_row_and_has_a_row_in_every_part():
    for seed in range(200):
        draw = rng(seed)
        counts = draw.integers(3, 60, size=draw.integers(2, 8))
        data = labelled(counts.tolist(), seed)
        n = len(data.y)
        n_validation, n_test = draw.integers(len(counts), max(len(counts) + 1, n // 3), size=2)
        train, validation, test = split(
            data, validation=int(n_validation), test=int(n_test), rng=draw
        )
        assert (len(validation.y), len(test.y)) == (n_validation, n_test)
        everything = np.concatenate([numbers(train), numbers(validation), numbers(test)])
        assert np.array_equal(np.sort(everything), np.arange(n))
        of_validation = np.bincount(validation.y, minlength=len(counts))
        of_test = np.bincount(test.y, minlength=len(counts))
        assert min(of_validation.min(), of_test.min(), np.bincount(train.y).min()) >= 1
        if (counts * min(n_validation, n_test) / n).min() >= 1:
            assert np.abs(of_validation - counts * n_validation / n).max() <= 1
            assert np.abs(of_test - counts * n_test / n).max() <= 1


def test_a_part_too_small_for_every_class_is_still_filled():
    train, validation, test = split(labelled([5, 5, 5, 5]), validation=2, test=1, rng=rng())
    assert (len(train.y), len(validation.y), len(test.y)) == (17, 2, 1)


def test_two_rows_of_a_class_go_to_both_sides():
    train, _, test = split(labelled([40, 2]), validation=0, test=0.1, rng=rng())
    assert (train.y == 1).sum() == (test.y == 1).sum() == 1


def test_a_rare_class_is_left_for_validation_and_for_training():
    for n_validation, n_test in ((2, 21), (20, 2)):
        parts = split(labelled([3, 30]), validation=n_validation, test=n_test, rng=rng())
        assert [(part.y == 0).sum() for part in parts] == [1, 1, 1]


def test_a_class_of_a_single_row_is_trained_on():
    for sizes in ((0.2, 0.2), (5, 5), (1, 15), (15, 1)):
        parts = split(labelled([20, 1, 5]), validation=sizes[0], test=sizes[1], rng=rng())
        assert [(part.y == 1).sum() for part in parts] == [1, 0, 0]


def test_parts_hold_the_rows_their_indices_name():
    data = labelled([20, 30])
    for method in ("stratified", "random", "last"):
        for part in split(data, validation=0.2, test=0.3, method=method, rng=rng()):
            assert np.array_equal(part.X, data.X[numbers(part)])
            assert np.array_equal(part.y, data.y[numbers(part)])


def test_the_same_generator_gives_the_same_split_and_another_seed_another():
    data = labelled([50, 50])
    first, again, other = (
        numbers(split(data, validation=0.1, test=0.2, rng=rng(seed))[2]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_last_takes_the_last_rows_as_views():
    data = regression(10)
    train, validation, test = split(data, validation=2, test=3, method="last", rng=rng())
    assert numbers(train).tolist() == [0, 1, 2, 3, 4]
    assert numbers(validation).tolist() == [5, 6]
    assert numbers(test).tolist() == [7, 8, 9]
    assert np.shares_memory(train.X, data.X)


def test_a_regression_is_drawn_at_random():
    parts = [
        split(regression(), validation=0.2, test=0.2, method=method, rng=rng())
        for method in ("stratified", "random")
    ]
    assert np.array_equal(numbers(parts[0][2]), numbers(parts[1][2]))
    assert not np.array_equal(numbers(parts[0][2]), np.arange(40, 50))


def test_a_test_part_of_its_own_is_kept_whole():
    own = labelled([4, 4], seed=3)
    data = replace(labelled([20, 20]), X_test=own.X, y_test=own.y)
    train, validation, test = split(data, validation=0.25, test=0.5, rng=rng())
    assert (len(train.y), len(validation.y)) == (30, 10)
    assert test.X is own.X
    assert test.y is own.y


def test_nothing_is_held_back_unless_asked_for():
    data = labelled([5, 5])
    train, validation, test = split(data, validation=0, test=0, rng=rng())
    assert validation is None
    assert test is None
    assert np.shares_memory(train.X, data.X)
    assert len(train.y) == 10


def test_sparse_rows_are_split_too():
    data = labelled([10, 10])
    sparse = replace(data, X=csr_matrix(data.X))
    for part in split(sparse, validation=0.2, test=0.2, rng=rng()):
        found = part.X.toarray()
        assert np.array_equal(found, data.X[(found[:, 1] // 2).astype(int)])


@pytest.mark.parametrize("size", [-1, 1.0, 1.5, -0.1, True, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_size_out_of_range_names_its_argument(name, size):
    sizes = {"validation": 0, "test": 0, name: size}
    with pytest.raises(ValueError, match=f"^{name} must be 0, a share"):
        split(regression(), **sizes, rng=rng())


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"^method must be one of stratified, random, last"):
        split(regression(), validation=0, test=0, method="first", rng=rng())


def poisoned(array_name: str, position: int | tuple[int, int], value: float) -> Dataset:
    data = replace(regression(), feature_names=("width", "height"))
    data = replace(data, X_test=data.X.copy(), y_test=data.y.copy())
    getattr(data, array_name)[position] = value
    return data


def sparse_nan() -> Dataset:
    X = csr_matrix(np.diag([1.0, 2.0, np.nan, 4.0]))
    return Dataset("table", X, np.zeros(4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (labelled([10]), "table: y holds one class only"),
        (labelled([10, 0]), "table: y holds one class only"),
        (labelled([1, 1, 0]), "table: 2 rows are fewer than 3 classes"),
        (
            replace(labelled([5, 5]), y=np.arange(10)),
            "table: y must hold class numbers from 0 to 1",
        ),
        (replace(regression(), y=np.zeros(3)), "line: X has 50 rows and y has 3"),
        (poisoned("X", (7, 1), np.nan), r"line: X holds nan at row 7, column 1 \(height\)"),
        (
            poisoned("X_test", (7, 0), np.inf),
            r"line: X_test holds inf at row 7, column 0 \(width\)",
        ),
        (poisoned("y", 3, -np.inf), "line: y holds -inf at row 3:"),
        (poisoned("y_test", 3, np.nan), "line: y_test holds nan at row 3:"),
        (sparse_nan(), "table: X holds nan at row 2, column 2:"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(data, message):
    with pytest.raises(DataError, match=f"^{message}"):
        split(data, validation=0.2, test=0.2, rng=rng())


@pytest.mark.parametrize(
    ("sizes", "method", "message"),
    [
        ((20, 20), "random", "nothing is left for training: 40 rows, 20 for validation, 20"),
        (
            (0.5, 19),
            "stratified",
            "training would keep 1 of 40 rows, fewer than the 2 classes",
        ),
        ((0, 20), "last", "no row of class 'b' is left for training"),
    ],
)
def test_a_training_part_that_cannot_be_learnt_from_is_refused(sizes, method, message):
    data = labelled([20, 20])
    data = replace(data, y=np.sort(data.y), path="/data/a.csv")
    with pytest.raises(DataError, match=f"^/data/a.csv: {message}"):
        split(data, validation=sizes[0], test=sizes[1], method=method, rng=rng())
