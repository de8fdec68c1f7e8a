"""Presets: whose values count, raw tables in, and the same model out of a file or a copy."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.utils.estimator_checks import check_estimator

import minidl
from minidl.config import load_config
from minidl.data.preprocessing import SmoothClip
from minidl.estimators import MLPClassifier, MLPRegressor
from minidl.estimators.presets import PRESETS, plain

CONFIGS = Path(__file__).parents[1] / "configs"
WINE = load_wine(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def quick(kind, **parameters):
    return kind(**{"preset": "tabular", "hidden_layer_sizes": 8, "random_state": 0, **parameters})


def frame(rows=120):
    """Numbers, one of them constant, categories by name and by type, a date; with gaps."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "constant": np.ones(rows),
            "colour": rng.choice(["red", "green", None], rows),
            "code": pd.Categorical(rng.choice([1, 2, 3], rows)),
            "day": pd.date_range("2020-01-01", periods=rows),
        }
    )


X = frame()
LABELS = np.where(X["colour"] == "red", "yes", "no")
VALUES = np.nan_to_num(X["number"]) + np.asarray(X["code"], float)
CASES = [(MLPClassifier, LABELS), (MLPRegressor, VALUES), (MLPRegressor, np.c_[VALUES, -VALUES])]


def outputs(estimator, rows):
    return getattr(estimator, "predict_proba", estimator.predict)(rows)


# --- Whose values count.


@pytest.mark.parametrize("kind, task", [(MLPClassifier, "classifier"), (MLPRegressor, "regressor")])
def test_what_is_at_its_default_takes_the_value_of_the_preset(kind, task):
    defaults = kind().get_params()
    expected = {**defaults, **PRESETS["tabular"][task], "random_state": 3}
    assert plain(kind(preset="tabular", random_state=3)).get_params() == expected
    estimator = kind(random_state=3)
    assert plain(estimator) is estimator
    set_here = {"max_iter": 7, "hidden_layer_sizes": (9,), "batch_size": 5, "schedule": "cosine"}
    found = plain(kind(preset="tabular", **set_here)).get_params()
    assert found == {**expected, **set_here, "random_state": None}


def test_values_that_suit_another_choice_are_taken_only_with_it():
    adam = plain(MLPClassifier(preset="tabular", solver="sgd")).get_params()
    assert adam["weight_decay"] is None and adam["learning_rate_init"] == 0.001
    assert adam["hidden_layer_sizes"] == PRESETS["tabular"]["classifier"]["hidden_layer_sizes"]
    layers = [{"linear": 4}, "relu", {"linear": "auto"}]
    quick(MLPClassifier, layers=layers, max_iter=2).fit(*WINE)
    quick(MLPClassifier, loss="softmax_cross_entropy", max_iter=2).fit(*WINE)
    with pytest.warns(UserWarning, match="lbfgs failed to converge"):
        quick(MLPRegressor, solver="lbfgs", max_iter=2).fit(*DIABETES)


def test_many_rows_have_larger_batches_and_fewer_epochs():
    few, many = (plain(MLPClassifier(preset="tabular"), n) for n in (1000, 100_000))
    assert (many.batch_size, many.max_iter) == (256, 15) and few.max_iter == 120
    assert plain(MLPClassifier(preset="tabular"), 10_000).max_iter == 80
    assert plain(MLPClassifier(preset="tabular"), 10).batch_size == 10
    assert plain(MLPClassifier(preset="tabular", max_iter=99), 100_000).max_iter == 99


@pytest.mark.parametrize(
    "kind, name",
    [(MLPClassifier, "tabular_classification"), (MLPRegressor, "tabular_regression")],
)
def test_the_config_says_the_same(kind, name):
    written = load_config(CONFIGS / f"{name}.yaml")
    config = kind(preset="tabular", random_state=written.seed).to_config()
    assert config.data.preprocessing == written.data.preprocessing
    assert config.model == written.model
    assert config.loss == written.loss
    assert config.train == written.train


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="'preset' parameter of MLPClassifier must be"):
        MLPClassifier(preset="images").fit(*WINE)


@pytest.mark.slow
def test_the_epochs_are_chosen_on_rows_held_out():
    rng = np.random.default_rng(0)
    rows = rng.uniform(-3, 3, (300, 1))
    noise = MLPRegressor(preset="tabular", random_state=0).fit(rows, rng.normal(size=300))
    waves = MLPRegressor(preset="tabular", random_state=0).fit(rows, np.sin(3 * rows[:, 0]))
    assert noise.n_iter_ in (8, 24) and waves.n_iter_ == 120
    assert noise.history_[-1]["learning_rate"] < 1e-4  # the end of a cycle
    few = MLPRegressor(preset="tabular", random_state=0).fit(rows[:40], rows[:40, 0])
    assert few.n_iter_ == 56  # too few to choose by
    validated = quick(MLPRegressor).fit(rows, rows[:, 0], X_val=rows, y_val=rows[:, 0])
    assert validated.n_iter_ == 120
    alone = quick(MLPClassifier).fit(rows, np.arange(300) // 299)  # nothing to hold out of class 1
    assert alone.n_iter_ == 56


# --- Raw tables.


@pytest.mark.parametrize("kind, y", CASES)
def test_any_kind_of_frame_gives_the_same_model(kind, y):
    expected = outputs(quick(kind, max_iter=3).fit(X, y), X)
    cells = X.astype(object).where(X.notna(), None)
    as_polars = pl.DataFrame({name: cells[name].tolist() for name in X})
    as_polars = as_polars.with_columns(pl.col("code").cast(pl.String).cast(pl.Categorical))
    as_text = X.assign(code=X["code"].astype(str).astype("category"))
    for table in (as_polars, as_text):
        found = quick(kind, max_iter=3).fit(table, y)
        assert np.array_equal(outputs(found, table), expected)
        assert found._table.state()["labels"].tolist() == ["green", "red", "1", "2", "3"]


def test_rows_of_cells_are_a_table_too():
    cells = [[1, "b", 0.5], [2.0, "a", None], [np.nan, "b", "?"], ["4", "a", 1]] * 5
    estimator = quick(MLPRegressor, max_iter=3).fit(cells, np.arange(20.0))
    frame = pd.DataFrame(
        {"0": [1, 2, np.nan, 4] * 5, "1": list("baba") * 5, "2": [0.5, np.nan, np.nan, 1] * 5}
    )
    expected = quick(MLPRegressor, max_iter=3).fit(frame, np.arange(20.0)).predict(frame)
    assert np.array_equal(estimator.predict(cells), expected)


def test_a_category_that_was_never_seen_and_a_new_gap_are_taken():
    estimator = quick(MLPRegressor, max_iter=3).fit(X, VALUES)
    new = X.iloc[:2].assign(colour=["blue", None], constant=np.nan)
    assert np.isfinite(estimator.predict(new)).all()
    assert estimator.predict(new.iloc[:1].assign(colour=[None])) == estimator.predict(new.iloc[:1])
    assert list(estimator.feature_names_in_) == list(X) and estimator.n_features_in_ == 5


def test_infinity_and_text_among_numbers_are_refused():
    with pytest.raises(ValueError, match="infinity"):
        quick(MLPRegressor).fit(X.assign(number=np.inf), VALUES)
    estimator = quick(MLPRegressor, max_iter=1).fit(X, VALUES)
    with pytest.raises(ValueError, match="infinity"):
        estimator.predict(X.assign(number=-np.inf))
    with pytest.raises(ValueError, match="X must hold numbers in column 0"):
        estimator.predict(X.assign(number="many"))


def test_the_preprocessing_is_fitted_on_the_training_rows_only():
    rows, y = np.arange(100.0)[:, None], np.arange(100.0)
    validated = quick(MLPRegressor, max_iter=1)
    validated.fit(rows, y, X_val=rows + 1000, y_val=y)
    expected = SmoothClip().fit(rows).state()
    assert validated._table.state()["center"] == expected["center"]
    early = quick(MLPRegressor, max_iter=1, early_stopping=True, validation_fraction=0.4)
    early.fit(rows, y)
    part, _ = train_test_split(rows, test_size=0.4, random_state=0)
    assert early._table.state()["center"] == np.median(part) != expected["center"]


def test_rows_are_held_out_as_without_a_preset():
    X, y = WINE
    for wrong in ({"y": y[:90]}, {"y": y, "sample_weight": np.ones(3)}):
        with pytest.raises(ValueError, match=r"inconsistent numbers|shape"):
            quick(MLPClassifier, early_stopping=True).fit(X, **wrong)
    with pytest.raises(ValueError, match="validation set is too small"):
        quick(MLPClassifier, early_stopping=True, validation_fraction=0.001).fit(X, y)
    once = quick(MLPClassifier, early_stopping=True, warm_start="exact", random_state=None)
    once.fit(X, y, 2.0)
    rows, held_out = once._resume["parts"]
    assert sorted([*rows, *held_out]) == list(range(len(y)))
    once.fit(X, y, 2.0)
    assert all(map(np.array_equal, once._resume["parts"], (rows, held_out)))


def test_early_stopping_holds_out_no_class_as_a_whole():
    labels = np.arange(100) // 99  # one row of class 1
    for seed in range(12):
        estimator = quick(MLPClassifier, max_iter=1, early_stopping=True, random_state=seed)
        assert list(estimator.fit(np.eye(100), labels).classes_) == [0, 1]


@pytest.mark.slow
def test_a_small_spread_around_a_large_mean_is_learned():
    rows = np.linspace(-1, 1, 200)[:, None]
    y = 1e9 + rows[:, 0]
    assert MLPRegressor(preset="tabular", random_state=0).fit(rows, y).score(rows, y) > 0.9


# --- The model, and what becomes of it.


@pytest.mark.parametrize("kind, y", CASES)
def test_copies_and_files_predict_the_same(kind, y, tmp_path):
    estimator = quick(kind, max_iter=3).fit(X, y)
    expected = outputs(estimator, X)
    assert expected.dtype == np.float64
    assert np.array_equal(outputs(pickle.loads(pickle.dumps(estimator)), X), expected)
    assert np.array_equal(outputs(clone(estimator).fit(X, y), X), expected)
    estimator.save(tmp_path / "model.npz")
    loaded = kind.load(tmp_path / "model.npz")
    assert np.array_equal(outputs(loaded, X), expected)
    assert loaded.get_params() == estimator.get_params()
    predictor = minidl.load(tmp_path / "model.npz")
    found = predictor.predict_proba(X) if kind is MLPClassifier else predictor.predict(X)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
    loaded.set_params(warm_start=True).fit(X, y)  # goes on with what the file holds
    assert not np.array_equal(outputs(loaded, X), expected)


def test_a_fit_without_the_preset_forgets_its_preprocessing():
    estimator = quick(MLPClassifier, max_iter=2).fit(*WINE)
    estimator.set_params(preset=None, max_iter=200, early_stopping=True).fit(*WINE)
    other = MLPClassifier(hidden_layer_sizes=8, random_state=0, early_stopping=True).fit(*WINE)
    assert np.array_equal(estimator.predict_proba(WINE[0]), other.predict_proba(WINE[0]))


def test_partial_fit_keeps_the_preprocessing_and_units_of_its_first_rows():
    estimator = quick(MLPRegressor)
    estimator.partial_fit(X, VALUES)
    center, loss_function = estimator._table.state()["center"], estimator._loss_function
    estimator.partial_fit(X.assign(number=X["number"] + 100), VALUES + 100)
    assert np.array_equal(estimator._table.state()["center"], center)
    assert estimator._loss_function == loss_function and len(estimator.history_) == 2
    classifier = quick(MLPClassifier)
    for part in (slice(0, 60), slice(60, None)):
        classifier.partial_fit(X[part], LABELS[part], classes=["no", "yes"])
    assert classifier.t_ == 120


def test_a_search_sets_parameters_behind_the_preset():
    search = GridSearchCV(quick(MLPClassifier, max_iter=2), {"dropout": [0.0, 0.5]}, cv=2)
    assert search.fit(X, LABELS).best_estimator_.preset == "tabular"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_the_checks_of_an_estimator_pass_but_those_that_cannot(kind):
    # Dropout, and batches of a size that depends on the rows: a weight of 2 is not a row twice.
    # float32: the product of other rows, or in another order, differs by more than 1e-7.
    cannot = {
        "check_sample_weight_equivalence_on_dense_data",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
    }
    results = check_estimator(kind(preset="tabular", max_iter=20), on_skip=None, on_fail=None)
    failed = {r["check_name"] for r in results if r["status"] == "failed"}
    assert len(results) > 50 and failed <= cannot


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, load, mean, deviation",  # of 5 splits, by scripts/compare_tabular.py
    [
        (MLPClassifier, load_breast_cancer, 0.976, 0.007),
        (MLPRegressor, load_diabetes, 0.429, 0.050),
    ],
)
def test_a_bundled_table_reaches_its_measured_score(kind, load, mean, deviation):
    rows, y = load(return_X_y=True)
    stratify = y if kind is MLPClassifier else None
    parts = train_test_split(rows, y, test_size=0.25, random_state=0, stratify=stratify)
    estimator = kind(preset="tabular", random_state=0).fit(parts[0], parts[2])
    assert estimator.score(parts[1], parts[3]) >= mean - 4 * deviation
