from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from minidl.data.preprocessing import PREPROCESSINGS
from minidl.errors import CheckpointError, DataError

KINDS = {
    "float64": lambda rng: rng.normal(3, 7, (301, 5)) * [1, 10, 0.1, 1e4, 1] + [0, 1e6, 0, 0, 5],
    "float32": lambda rng: rng.normal(3, 7, (301, 5)).astype(np.float32),
    "uint8": lambda rng: rng.integers(0, 200, (301, 5), dtype=np.uint8),
    "int64": lambda rng: rng.integers(-1000, 1000, (301, 5)),
}
SPARSE = ("none", "unit")
NAMES = [name for name, kind in PREPROCESSINGS.items() if kind.name == name]
AFFINE = ("none", "unit", "global_standard", "standard", "minmax", "robust")


@pytest.fixture(params=KINDS)
def X(request) -> np.ndarray:
    return KINDS[request.param](np.random.default_rng(0))


def oracle(name: str, X: np.ndarray) -> np.ndarray:
    x = X.astype(np.float64)
    return {
        "none": lambda: x,
        "unit": lambda: x / (255 if X.dtype == np.uint8 else np.abs(x).max()),
        "global_standard": lambda: (x - x.mean()) / x.std(),
        "standard": lambda: StandardScaler().fit_transform(x),
        "minmax": lambda: MinMaxScaler().fit_transform(x),
        "robust": lambda: RobustScaler().fit_transform(x),
    }[name]()


@pytest.mark.parametrize("name", AFFINE)
def test_it_is_what_its_equation_says(name, X):
    fitted = PREPROCESSINGS[name]().fit(X)
    assert np.allclose(fitted.transform(X, dtype=np.float64), oracle(name, X), rtol=1e-9, atol=1e-9)
    assert fitted.n_out == 5
    single = fitted.transform(X)
    assert single.dtype == np.float32
    assert np.allclose(single, oracle(name, X), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_do_not_depend_on_batches(name, dtype, X):
    fitted, before = PREPROCESSINGS[name]().fit(X), X.copy()
    whole = fitted.transform(X, dtype=dtype)
    for n_rows in (1, 2, 7, 100):
        batches = [fitted.transform(X[i : i + n_rows], dtype=dtype) for i in range(0, 301, n_rows)]
        assert np.concatenate(batches).tobytes() == whole.tobytes()
    assert not np.shares_memory(whole, X)
    assert X.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_back_from_its_state(name, X):
    fitted = PREPROCESSINGS[name]().fit(X)
    again = PREPROCESSINGS[name]().restore(fitted.state())
    assert type(again) is type(fitted)
    assert again.n_out == fitted.n_out
    assert again.transform(X).tobytes() == fitted.transform(X).tobytes()
    assert all(np.asarray(each).dtype.kind in "fiuU" for each in fitted.state().values())


@pytest.mark.parametrize(
    "change",
    [
        {"center": None},
        {"more": np.zeros(())},
        {"scale": np.ones(4)},
        {"scale": np.full(5, np.nan)},
        {"center": np.zeros(5, np.float32)},
        {"n_features": np.array(5.0)},
        {"n_features": np.array(0)},
        {"n_features": np.array([5])},
    ],
)
def test_a_state_that_is_not_its_own_is_refused(change):
    state = PREPROCESSINGS["standard"]().fit(np.eye(5)).state() | change
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(CheckpointError, match=r"^preprocessing standard: the saved arrays"):
        PREPROCESSINGS["standard"]().restore(state)


def test_the_former_name_of_global_standard_is_read():
    state = PREPROCESSINGS["global_standard"]().fit(np.eye(5)).state()
    assert PREPROCESSINGS["mean_std"]().restore(state).name == "global_standard"


@pytest.mark.parametrize("name", ["standard", "minmax", "robust"])
@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -3.0, 0.0])
def test_a_constant_feature_becomes_zero(name, value):
    X = np.random.default_rng(0).normal(size=(1000, 3))
    X[:, 1] = value
    assert not PREPROCESSINGS[name]().fit(X).transform(X)[:, 1].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_table_stays_finite(name):
    for X in (np.zeros((9, 2)), np.full((9, 2), 0.1), np.zeros((1, 2), np.uint8)):
        assert np.isfinite(PREPROCESSINGS[name]().fit(X).transform(X)).all()


@pytest.mark.parametrize("name", ["global_standard", "standard"])
def test_a_deviation_far_from_zero_keeps_its_digits(name):
    x = np.random.default_rng(0).normal(size=(5000, 1))
    x[0] = 50  # the row that the sums start from may be an outlier
    fitted = PREPROCESSINGS[name]().fit(x + 1e8)
    assert fitted.scale == pytest.approx(1 / x.std(), rel=1e-6)
    assert np.allclose(fitted.transform(x + 1e8), (x - x.mean()) / x.std(), atol=1e-5)


def test_a_value_beyond_float32_is_scaled_before_it_is_rounded():
    X = np.array([[1e300], [-1e300]])
    assert PREPROCESSINGS["unit"]().fit(X).transform(X).ravel().tolist() == [1, -1]


@pytest.mark.parametrize("name", ["global_standard", "standard"])
def test_numbers_too_large_to_square_are_refused(name):
    with pytest.raises(DataError, match=f"^preprocessing {name}: X holds numbers"):
        PREPROCESSINGS[name]().fit(np.array([[1e300], [-1e300]]))


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_stays_sparse(name, dtype):
    X = np.random.default_rng(0).normal(size=(20, 6)) * (np.arange(120).reshape(20, 6) % 3 == 0)
    sparse = csr_matrix(X)
    inputs = PREPROCESSINGS[name]().fit(sparse).transform(sparse, dtype=dtype)
    assert isinstance(inputs, csr_matrix)
    assert inputs.dtype == dtype
    assert np.array_equal(inputs.toarray(), PREPROCESSINGS[name]().fit(X).transform(X, dtype=dtype))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPARSE])
def test_sparse_is_refused_where_centring_would_fill_it(name):
    with pytest.raises(DataError, match=f"^preprocessing {name}: X is sparse, and"):
        PREPROCESSINGS[name]().fit(csr_matrix(np.eye(3)))
    with pytest.raises(ValueError, match=r"^X must be dense"):
        PREPROCESSINGS[name]().fit(np.eye(3)).transform(csr_matrix(np.eye(3)))


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_columns_is_refused(name):
    fitted = PREPROCESSINGS[name]().fit(np.eye(5))
    for shape in ((5, 4), (5,)):
        with pytest.raises(ValueError, match=r"^X must have 5 columns"):
            fitted.transform(np.ones(shape))


@pytest.mark.parametrize("name", NAMES)
def test_no_row_to_fit_on_is_refused(name):
    with pytest.raises(DataError, match=f"^preprocessing {name}: there is no row"):
        PREPROCESSINGS[name]().fit(np.empty((0, 3)))


def test_bytes_are_not_widened_all_at_once():
    X = np.random.default_rng(0).integers(0, 256, (20_000, 100), dtype=np.uint8)
    for name in ("unit", "global_standard", "standard", "minmax"):
        tracemalloc.start()
        PREPROCESSINGS[name]().fit(X)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < X.nbytes
