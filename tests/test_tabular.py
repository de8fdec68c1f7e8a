from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, RobustScaler

from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.preprocessing.tabular import PiecewiseLinear, QuantileTransform, SmoothClip
from minidl.data.schema import Schema
from minidl.data.tables import table_of
from minidl.errors import CheckpointError, DataError

TABULAR = ("smooth_clip", "quantile", "piecewise_linear")
NAN = np.nan


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    return np.stack(
        [rng.normal(5, 2, 999), rng.exponential(1e6, 999), rng.standard_cauchy(999)], axis=1
    )


def mixed(rows=200):
    """Numbers, three categories, numbers that may miss, two categories that may miss."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(rows, 4))
    X[:, 1], X[:, 3] = rng.integers(0, 3, rows), rng.integers(0, 2, rows)
    X[rng.random(rows) < 0.2, 2] = NAN
    X[rng.random(rows) < 0.2, 3] = NAN
    return X, Schema.plain("wxyz", [(), ("a", "b", "c"), (), ("no", "yes")])


def test_smooth_clip_is_its_equation(numbers):
    z = RobustScaler().fit_transform(numbers)
    y = SmoothClip().fit(numbers).transform(numbers, dtype=np.float64)
    assert np.allclose(y, z / np.sqrt(1 + (z / 3) ** 2))
    assert 2.9 < np.abs(y).max() < 3
    assert np.abs(SmoothClip().fit(numbers).transform(np.full((1, 3), 1e300))).max() <= 3


def test_smooth_clip_of_equal_quartiles_uses_the_range():
    x = np.zeros((100, 1))
    x[:3, 0] = 2, -2, 1
    y = SmoothClip().fit(x).transform(x, dtype=np.float64)[:, 0]
    z = x[:, 0] / 2
    assert np.allclose(y, z / np.sqrt(1 + (z / 3) ** 2))


def test_quantiles_become_normal(numbers):
    fitted = QuantileTransform().fit(numbers)
    y = fitted.transform(numbers, dtype=np.float64)
    ranks = numbers.argsort(axis=0).argsort(axis=0)
    assert np.allclose(y, norm.ppf((ranks + 0.5) / 999), atol=1e-12)
    assert np.allclose(fitted.transform(numbers.max(axis=0)[None] + 1), norm.ppf(998.5 / 999))
    knots = np.quantile(numbers, [0.1, 0.5, 0.9], axis=0, method="hazen")
    coarse = QuantileTransform(5).fit(numbers).transform(knots)
    assert np.allclose(coarse, norm.ppf([0.1, 0.5, 0.9])[:, None], atol=1e-6)


def test_equal_values_get_the_middle_of_their_ranks():
    x = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 4], float)[:, None]
    y = QuantileTransform().fit(x).transform(np.array([[0.0]]), dtype=np.float64)
    assert np.isclose(y[0, 0], (norm.ppf(0.05) + norm.ppf(0.55)) / 2)


def test_piecewise_linear_says_how_far_a_value_is_through_each_bin(numbers):
    fitted = PiecewiseLinear(4).fit(numbers)
    y = fitted.transform(numbers, dtype=np.float64)
    assert y.shape == (999, 12) and fitted.n_out == 12
    assert y.min() == 0 and y.max() == 1
    parts = y.reshape(999, 3, 4)
    assert (np.diff(parts, axis=2) <= 0).all()
    assert ((parts > 0) & (parts < 1)).sum(axis=2).max() == 1  # one bin is entered, not passed
    bins = KBinsDiscretizer(4, encode="ordinal", strategy="quantile")
    if "quantile_method" in bins.get_params():  # from scikit-learn 1.7
        bins.set_params(quantile_method="averaged_inverted_cdf")
    bins = bins.fit_transform(numbers)
    assert (np.minimum((parts == 1).sum(axis=2), 3) == bins).mean() > 0.99
    edges = np.quantile(numbers, np.linspace(0, 1, 5), axis=0)
    back = edges[0] + (parts * np.diff(edges, axis=0).T).sum(axis=2)
    assert np.allclose(back, numbers)  # within the bins nothing is lost


def test_piecewise_linear_takes_equal_quantiles_once():
    x = np.stack([np.repeat([0.0, 1, 5], 100), np.full(300, 7.0)], axis=1)
    fitted = PiecewiseLinear(8).fit(x)
    assert fitted.transform(np.array([[3.0, 7.0]])).tolist() == [[1.0, 0.5, 0.0]]


@pytest.mark.parametrize("name", TABULAR)
def test_categories_and_missing_values(name):
    X, schema = mixed()
    fitted = PREPROCESSINGS[name](schema=schema).fit(X)
    y = fitted.transform(X, dtype=np.float64)
    alone = PREPROCESSINGS[name]().fit(np.where(np.isnan(X), np.nanmedian(X, axis=0), X)[:, [0, 2]])
    filled = np.where(np.isnan(X), np.nanmedian(X, axis=0), X)[:, [0, 2]]
    n = alone.n_out
    assert np.array_equal(y[:, :n], alone.transform(filled, dtype=np.float64))
    assert np.array_equal(y[:, n], np.isnan(X[:, 2]))
    one_hot = OneHotEncoder(
        categories=[np.arange(3.0), np.arange(2.0)], handle_unknown="ignore", sparse_output=False
    )
    assert np.array_equal(y[:, n + 1 :], one_hot.fit_transform(X[:, [1, 3]]))
    assert y.shape == (200, n + 6) and fitted.n_out == n + 6
    # what the training part never held: a new category, a value missing where none was
    new = fitted.transform(np.array([[NAN, 3.0, 0.0, -1.0]]), dtype=np.float64)
    median = fitted.transform(np.array([[np.median(X[:, 0]), NAN, 0.0, NAN]]), dtype=np.float64)
    assert np.array_equal(new, median)
    assert not new[0, n:].any()


@pytest.mark.parametrize("name", TABULAR)
def test_a_table_without_numbers_or_with_an_empty_column(name):
    schema = Schema.plain("x", [("a", "b")])
    only = PREPROCESSINGS[name](schema=schema).fit(np.array([[0.0], [1.0]]))
    assert only.transform(np.array([[1.0]])).tolist() == [[0, 1]]
    empty = PREPROCESSINGS[name]().fit(np.array([[1.0, NAN], [2.0, NAN]]))
    assert np.isfinite(empty.transform(np.array([[1.5, NAN], [1.5, 3.0]]))).all()


@pytest.mark.parametrize("name", TABULAR)
def test_a_state_comes_back_or_is_refused(name):
    X, schema = mixed()
    fitted = PREPROCESSINGS[name](schema=schema).fit(X)
    state = fitted.state()
    again = PREPROCESSINGS[name]().restore(state)
    assert again.transform(X).tobytes() == fitted.transform(X).tobytes()
    changes = [
        {"categories": np.array([0, 3, 2, 2])},
        {"categories": np.array([0, 3, 0, -2])},
        {"categories": np.array([0.0, 3, 0, 2])},
        {"medians": np.zeros(3)},
        {"medians": np.array([0, NAN])},
        {"marked": np.array([0, 2])},
        {"more": np.zeros(2)},
        {"labels": np.array(["a"] * 4)},
        {"labels": np.zeros(5)},
    ]
    own = [key for key in state if key not in ("categories", "labels", "medians", "marked")]
    for key in own:
        changes += [{key: None}, {key: state[key].astype(np.float32)}, {key: state[key][..., :-1]}]
    for change in changes:
        wrong = {key: array for key, array in (state | change).items() if array is not None}
        with pytest.raises(CheckpointError, match=f"^preprocessing {name}: the saved arrays"):
            PREPROCESSINGS[name]().restore(wrong)


@pytest.mark.filterwarnings("ignore:column")
def test_rows_are_read_by_the_labels():
    X, schema = mixed()
    fitted = SmoothClip(schema=schema).fit(X)
    assert fitted.labels == [[], ["a", "b", "c"], [], ["no", "yes"]] and fitted.dates == []
    schema = Schema.plain("wxyz", fitted.labels)
    rows = [[1, "b", 0.5, "yes"], ["2", " a", None, "new"], [np.nan, None, "?", "no"]]
    expected = [[1, 1, 0.5, 1], [2, 0, NAN, NAN], [NAN, NAN, NAN, 0]]
    for given in (rows, pd.DataFrame(rows)):
        assert np.array_equal(schema.encode(given), expected, equal_nan=True)
    with pytest.raises(ValueError, match=r"^X, row 0: column 'y' holds 'b', which is not a"):
        schema.encode([[1, "b", "b", "yes"]])
    years = Schema.plain("xy", [(), ("1", "20")])
    assert years.encode(np.array([[7, 20], [8, 1]])).tolist() == [[7, 1], [8, 0]]


@pytest.mark.parametrize("name", TABULAR)
def test_a_date_is_five_numbers(name):
    days = pd.date_range("2020-02-27 06:00", periods=40, freq="37h")
    frame = pd.DataFrame({"x": np.arange(40) % 7, "day": days})
    schema = Schema.infer(table_of(frame))
    X = schema.encode(frame)
    parts = [days.year, days.month, days.day_of_week, days.hour, days.asi8 / 8.64e13]
    by_hand = np.c_[X[:, 0], np.stack([np.asarray(p, float) for p in parts], axis=1)]
    by_hand[:, -1] = X[:, 1] / 86400
    fitted = PREPROCESSINGS[name](schema=schema).fit(X)
    expected = PREPROCESSINGS[name]().fit(by_hand).transform(by_hand)
    assert np.array_equal(fitted.transform(X), expected)
    again = PREPROCESSINGS[name]().restore(fitted.state())
    assert np.array_equal(again.transform(X), expected)
    with pytest.raises(CheckpointError):
        PREPROCESSINGS[name]().restore(fitted.state() | {"dates": np.array([2])})


@pytest.mark.parametrize("name", TABULAR)
def test_what_cannot_be_fitted_is_refused(name):
    with pytest.raises(DataError, match="infinite"):
        PREPROCESSINGS[name]().fit(np.array([[1.0], [np.inf]]))
    with pytest.raises(ValueError, match=r"^schema must be of 2 columns"):
        PREPROCESSINGS[name](schema=Schema.plain("x")).fit(np.eye(2))


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"^n_quantiles must"):
        QuantileTransform(1)
    with pytest.raises(ValueError, match=r"^n_bins must"):
        PiecewiseLinear(0)
