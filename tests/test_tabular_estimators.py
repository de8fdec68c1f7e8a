"""The estimators of raw tables: any kind of frame, calibrated, explained, in files and copies."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import minidl
from minidl import kernels
from minidl.config import load_config
from minidl.data.preprocessing.features import LookUp, TableFeatures
from minidl.data.schema import Schema
from minidl.data.tables import table_of
from minidl.errors import CheckpointError
from minidl.layers import Linear, SiLU
from minidl.losses import SoftmaxCrossEntropy
from minidl.model import Sequential
from minidl.predictor import Predictor
from minidl.schedules import Cosine
from minidl.tabular import TableEncoder, TabularClassifier, TabularRegressor
from minidl.tabular.estimators import temperature
from minidl.tabular.explanation import integrated_gradients
from minidl.tabular.members import (
    LAYERS,
    folds_of,
    length_for,
    linear_of,
    optimizer,
    pack,
    unpack,
)

CONFIGS = Path(__file__).parents[1] / "configs"
ROWS = 120


def frame(rows=ROWS):
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
MARKS = np.c_[X["colour"] == "red", np.nan_to_num(X["number"]) > 0].astype(int)
CASES = [
    (TabularClassifier, LABELS),
    (TabularClassifier, np.asarray(X["code"])),
    (TabularClassifier, MARKS),
    (TabularRegressor, VALUES),
    (TabularRegressor, np.c_[VALUES, -VALUES]),
]


def quick(kind, **parameters):
    return kind(**{"n_members": 2, "random_state": 0, **parameters})


def outputs(estimator, rows):
    return getattr(estimator, "predict_proba", estimator.predict)(rows)


@pytest.fixture(scope="module")
def fitted():
    return {id(y): quick(kind).fit(X, y) for kind, y in CASES}


# --- Raw tables.


@pytest.mark.parametrize("kind, y", CASES[:1] + CASES[3:4])
def test_any_kind_of_frame_gives_the_same_model(kind, y, fitted):
    expected = outputs(fitted[id(y)], X)
    cells = X.astype(object).where(X.notna(), None)
    as_polars = pl.DataFrame({name: cells[name].tolist() for name in X})
    as_polars = as_polars.with_columns(pl.col("code").cast(pl.String).cast(pl.Categorical))
    as_text = X.assign(code=X["code"].astype(str).astype("category"))
    nullable = X.assign(number=X["number"].astype("Float64"), colour=X["colour"].astype("string"))
    tables = [as_polars, as_text, nullable]
    if arrow := pytest.importorskip("pyarrow"):
        tables.append(nullable.assign(number=nullable["number"].astype("double[pyarrow]")))
        tables.append(arrow.Table.from_pandas(X))
    for table in tables:
        assert np.array_equal(outputs(fitted[id(y)], table), expected)
    for table in (as_polars, tables[-1]):
        assert np.array_equal(outputs(quick(kind).fit(table, y), table), expected)


def test_columns_are_taken_by_name(fitted):
    estimator = fitted[id(VALUES)]
    expected = estimator.predict(X)
    assert np.array_equal(estimator.predict(X[X.columns[::-1]]), expected)
    with pytest.warns(UserWarning, match="not used: more"):
        assert np.array_equal(estimator.predict(X.assign(more=1)), expected)
    assert estimator.feature_names_in_.tolist() == list(X) and estimator.n_features_in_ == 5
    with pytest.raises(ValueError, match="missing: colour"):
        estimator.predict(X.drop(columns="colour"))
    arrays = quick(TabularRegressor).fit(X.to_numpy(dtype=object), VALUES)
    assert not hasattr(arrays, "feature_names_in_")
    assert arrays.predict(X.to_numpy(dtype=object)).shape == (ROWS,)
    with pytest.raises(ValueError, match="expecting 5 features"):
        arrays.predict(X.to_numpy(dtype=object)[:, :4])


def test_what_training_did_not_hold_is_a_warning_with_counts(fitted):
    estimator = fitted[id(VALUES)]
    new = X.iloc[:3].assign(colour=["blue", "blue", None], constant=[1, np.nan, 1])
    with pytest.warns(UserWarning, match="'colour': 2 of 3 rows .* such as 'blue'") as caught:
        assert np.isfinite(estimator.predict(new)).all()
    assert "column 'constant': 1 of 3 rows lack a value" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.predict(X)


def test_one_bad_cell_is_named_and_kinds_can_be_given():
    table = X.assign(code=[*["7", "8.5"] * 59, "9", "oops"])
    with pytest.raises(ValueError, match=r"row 119: column 'code' holds 'oops' among numbers"):
        quick(TabularRegressor).fit(table, VALUES)
    kept = quick(TabularRegressor, columns={"code": "category"}).fit(table, VALUES)
    assert kept.encoder_.schema_.columns[3].kind == "category"
    gap = quick(TabularRegressor, missing=["oops"]).fit(table, VALUES)
    assert gap.encoder_.schema_.columns[3].kind == "number"
    with pytest.raises(ValueError, match="row 0: column 'number' holds 'many'"):
        gap.predict(table.assign(number="many"))
    zips = TableEncoder().fit(X.assign(code=["01234", "12345"] * 60)).schema_
    assert zips.columns[3].kind == "category"


def test_identifiers_are_left_out_with_a_warning():
    table = X.assign(key=[f"k{i:04d}" for i in range(ROWS)])
    with pytest.warns(UserWarning, match="'key'.* left out"):
        estimator = quick(TabularRegressor).fit(table, VALUES)
    assert outputs(estimator, X).shape == (ROWS,)
    explained = estimator.explain(table)
    assert explained.columns[-1] == "key" and not explained.values[:, -1].any()


def test_infinity_and_sparse_rows_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quick(TabularRegressor).fit(X.assign(number=np.inf), VALUES)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        quick(TabularClassifier).fit(csr_matrix(np.eye(20)), np.arange(20) % 2)


# --- The encodings.


def encoded(table, y=None, **options):
    return TableEncoder(**options).fit(table, y)


def test_inputs_are_what_the_documentation_says():
    x = np.arange(101.0)
    encoder = encoded(x[:, None])
    with pytest.warns(UserWarning, match="far outside"):
        inputs = encoder.transform(np.array([[50.0], [75.0], [np.nan], [1000.0]]))
    z = np.array([0, 0.5, 0, 19.0])
    np.testing.assert_allclose(inputs[:, 0], z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-6)
    assert inputs.shape == (4, 17)
    np.testing.assert_allclose(inputs[1, 1:], [1] * 12 + [0] * 4)
    np.testing.assert_allclose(inputs[0, 1:].sum(), 8)
    assert (inputs[3, 1:] == 1).all()
    table = pd.DataFrame({"a": [1.0, None, 3.0], "b": ["x", "y", None]})
    encoder = encoded(table)
    found = encoder.transform(table)
    names = list(encoder.get_feature_names_out())
    assert [name.split("_")[0] for name in names].count("b") == 2
    assert found[:, -2:].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert found[:, 1].tolist() == [0, 1, 0]  # the mark of the gap


def test_a_date_is_five_numbers():
    days = pd.DataFrame({"day": pd.date_range("2021-03-01", periods=50, freq="37h")})
    schema = encoded(days).schema_
    assert schema.columns[0].kind == "date"
    text = pd.DataFrame({"day": days["day"].astype(str)})
    assert np.array_equal(encoded(text).transform(text), encoded(days).transform(days))


def test_many_labels_are_coded_by_means_out_of_fold():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 200, 4000)
    effect = rng.normal(size=200)
    table = pd.DataFrame({"label": [f"l{i}" for i in labels], "x": rng.normal(size=4000)})
    y = effect[labels] + 0.1 * rng.normal(size=4000)
    encoder = encoded(table, y)
    inputs = encoder.transform(table)
    assert inputs.shape[1] < 60  # no input for each label
    assert np.corrcoef(inputs[:, 1], y)[0, 1] > 0.8
    noise = rng.normal(size=(4000, 1))
    codes = encoder.encode(table)
    folds = folds_of(None, 4000, 5, rng)
    held_out = TableFeatures(encoder.schema_).fit_out_of_fold(codes, noise, folds)
    in_fold = TableFeatures(encoder.schema_).fit(codes, noise).transform(codes)
    columns = [j for j in range(inputs.shape[1]) if j != 0]  # x itself
    assert abs(np.corrcoef(held_out[:, 1], noise[:, 0])[0, 1]) < 0.1
    assert np.corrcoef(in_fold[:, 1], noise[:, 0])[0, 1] > 0.15 and columns


def test_ten_thousand_labels_take_little_memory():
    table = pd.DataFrame({"label": [f"l{i % 10_000}" for i in range(20_000)]})
    inputs = encoded(table, np.arange(20_000) % 7, columns={"label": "category"}).transform(table)
    assert inputs.nbytes < 20_000 * 4 * 30


def test_the_encoder_stands_in_a_pipeline(fitted):
    pipeline = make_pipeline(TableEncoder(), Ridge()).fit(X, VALUES)
    assert pipeline.score(X, VALUES) > 0.8
    results = check_estimator(TableEncoder(), on_skip=None, on_fail=None)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def mixed_table(n):
    """Numbers with and without gaps, of two values, constant and far from 0, a date, categories."""
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "c", "d", "e", None], dtype=object)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n) ** 3,
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "two": rng.integers(0, 2, n) * 3.0,
            "one": np.full(n, 2.5),
            "far": 1.7e9 + 100 * rng.random(n),
            "few": rng.integers(0, 4, n) / 7,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "word": words[rng.integers(0, 6, n)],
            **{f"normal {i}": rng.normal(size=n) for i in range(6)},
        }
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("of_numpy", [False, True])
def test_a_product_is_looked_up(dtype, of_numpy, monkeypatch):
    if of_numpy:
        monkeypatch.setattr("minidl.kernels._compiled", kernels.NUMPY_ALONE)
    table = mixed_table(700)
    features = encoded(table[:500]).features_
    X = features.schema.encode(table)
    X[500:520, :6] *= 100  # beyond all bins
    rng = np.random.default_rng(1)
    W, b = rng.normal(size=(features.n_out, 9)).astype(dtype), rng.normal(size=9).astype(dtype)
    expected = features.transform(X, dtype=np.float64) @ W + b
    error = 40 * np.finfo(dtype).eps * np.abs(expected).max()
    found = LookUp(features, W, b)(X)
    assert found.dtype == dtype
    assert np.abs(found - expected).max() < error
    assert np.abs(LookUp(features, W, None)(X) - (expected - b)).max() < error
    assert features.look_up(W, b) is not None
    few = encoded(table[["two", "one"]]).features_  # no bins
    assert few.look_up(W[: few.n_out], b) is None


def test_many_rows_are_predicted_by_looking_up():
    table = mixed_table(1500)
    features = encoded(table[:500]).features_
    model = Sequential([Linear(features.n_out, 8, rng=0), SiLU(), Linear(8, 2, rng=1)])
    predictor = Predictor(model, SoftmaxCrossEntropy(), features, len(table.columns), ["n", "y"])
    expected = predictor.predict_proba(table[:700])
    found = predictor.predict_proba(table)
    assert np.allclose(found[:700], expected, rtol=0, atol=1e-5)
    assert not np.array_equal(found[:700], expected) or kernels.name() != "compiled"
    for n in (9, 1500):
        with pytest.raises(ValueError, match=r"^X must be dense for preprocessing table_features"):
            predictor.predict(csr_matrix((n, len(table.columns))))


def test_features_refuse_the_arrays_of_others():
    features = encoded(X).features_
    assert np.array_equal(
        TableFeatures().restore(features.state()).transform(features.schema.encode(X)),
        features.transform(features.schema.encode(X)),
    )
    for name, wrong in (
        ("median", np.zeros(1)),
        ("width", -features.state()["width"]),
        ("bin", features.state()["bin"] + 1000),
        ("scale", np.full_like(features.state()["scale"], np.nan)),
        ("schema", np.zeros(3, np.uint8)),
    ):
        with pytest.raises(CheckpointError, match="not its own"):
            TableFeatures().restore(features.state() | {name: wrong})


# --- Members.


def test_folds_keep_the_shares_of_classes_and_hold_out_each_row_once():
    labels = np.array([0] * 50 + [1] * 10)
    folds = folds_of(labels, 60, 5, np.random.default_rng(0))
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(60))
    for train, held_out in folds:
        assert np.bincount(labels[held_out]).tolist() == [10, 2]
        assert not set(train) & set(held_out)
    ((train, held_out),) = folds_of(labels, 60, 1, np.random.default_rng(0))
    assert len(held_out) == 12 and len(train) == 48
    assert [len(part) for part in folds_of(None, 6, None, np.random.default_rng(0))[0]] == [6, 0]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_shipped_config_trains_a_member(task):
    config = load_config(f"{CONFIGS}/tabular_{task}.yaml")
    train = config.train
    assert (train.batch_size, train.epochs, train.early_stopping.patience) == length_for(2560)
    assert train.optimizer.build() == optimizer() and train.schedule.build() == Cosine()
    assert config.data.preprocessing.name == TableFeatures.name
    for choice, spec in zip(config.model, LAYERS, strict=True):
        assert choice.spec.items() >= spec.items()
    y = LABELS if task == "classification" else VALUES
    kind = TabularClassifier if task == "classification" else TabularRegressor
    loss = config.loss.build().fitted(VALUES)
    assert loss == quick(kind, n_members=1).fit(X, y)._targets.loss_function


@pytest.mark.parametrize("sizes", [(3, 4, 2), (3, 4, 5, 2)])
def test_packed_members_give_the_mean(sizes):
    rng = np.random.default_rng(0)
    members = []
    for _ in range(3):
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [linear_of(rng.normal(size=(n_in, n_out)), rng.normal(size=n_out))]
            layers += [minidl.layers.SiLU()]
        members.append(Sequential(layers[:-1]))
    x = rng.normal(size=(7, 3)).astype(np.float32)
    expected = np.mean([m.forward(x, train=False) for m in members], axis=0)
    packed = pack(members, 0.5)
    np.testing.assert_allclose(packed.forward(x, train=False), expected / 2, rtol=1e-4)
    parts = np.split(packed.layers[0].forward(x, train=False), 3, axis=1)
    again = sum(m.forward(h, train=False) for m, h in zip(unpack(packed, 3), parts, strict=True))
    np.testing.assert_allclose(again, expected / 2, rtol=1e-4)


def test_the_same_seed_gives_the_same_bits_for_any_number_of_jobs(fitted):
    expected = outputs(fitted[id(LABELS)], X)
    for n_jobs in (1, 2):
        found = outputs(quick(TabularClassifier, n_jobs=n_jobs).fit(X, LABELS), X)
        assert np.array_equal(found, expected)
    other = quick(TabularClassifier, random_state=1).fit(X, LABELS)
    assert not np.array_equal(outputs(other, X), expected)


def test_predictions_out_of_fold_are_of_nets_that_have_not_seen_the_row():
    rng = np.random.default_rng(0)
    rows, noise = rng.normal(size=(200, 5)), rng.normal(size=200)
    estimator = quick(TabularRegressor, n_members=5).fit(rows, noise)
    assert np.corrcoef(estimator.oof_prediction_, noise)[0, 1] < 0.3
    one = quick(TabularRegressor, n_members=1).fit(rows, noise)
    assert np.isnan(one.oof_prediction_).sum() == 160 and len(one.conformal_scores_) == 40


def test_a_time_limit_always_leaves_a_model():
    estimator = quick(TabularRegressor, time_limit=0.05).fit(X, VALUES)
    assert np.isfinite(estimator.predict(X)).all()


def test_weights_of_rows_and_classes_count(fitted):
    weight = (LABELS == "yes").astype(float)
    only = quick(TabularClassifier).fit(X, LABELS, sample_weight=weight)
    assert set(only.predict(X)) == {"yes"}
    heavy = quick(TabularClassifier, class_weight={True: 50.0, "no": 2.0}).fit(X, VALUES > 2)
    assert heavy.predict_proba(X).shape == (ROWS, 2)


# --- Targets.


@pytest.mark.parametrize("kind, y", CASES)
def test_predictions_have_the_form_of_y(kind, y, fitted):
    found = fitted[id(y)].predict(X)
    assert found.shape == y.shape and found.dtype.kind == y.dtype.kind
    assert fitted[id(y)].score(X, y) > 0.6


def test_targets_of_any_kind():
    days = np.array(["2020-01-01", "2021-01-01"], "M8[D]")[np.arange(ROWS) % 2]
    assert quick(TabularClassifier).fit(X, days).predict(X).dtype == days.dtype
    sparse = quick(TabularClassifier).fit(X, csr_matrix(MARKS))
    assert sparse.predict(X).shape == MARKS.shape and hasattr(sparse.predict(X), "tocsr")
    single = quick(TabularClassifier).fit(X, np.full(ROWS, "only"))
    assert set(single.predict(X)) == {"only"} and (single.predict_proba(X) == 1).all()
    nullable = quick(TabularClassifier).fit(X, pd.Series(np.arange(ROWS) % 2, dtype="Int64"))
    assert nullable.classes_.tolist() == [0, 1] and nullable.classes_.dtype.kind == "i"
    few = quick(TabularRegressor).fit(X[:4], VALUES[:4])
    assert np.isfinite(few.predict(X[:4])).all() and not len(few.conformal_scores_)
    rare = np.where(np.arange(ROWS) == 5, "rare", LABELS)
    assert "rare" in quick(TabularClassifier).fit(X, rare).classes_
    with pytest.raises(ValueError, match="row 3 has no label"):
        quick(TabularClassifier).fit(X, np.array([*LABELS[:3], None, *LABELS[4:]], object))
    with pytest.raises(ValueError, match="infinity"):
        quick(TabularClassifier).fit(X, np.where(np.arange(ROWS) == 3, np.inf, 1.0))
    with pytest.raises(ValueError, match="holds no row"):
        quick(TabularClassifier).fit(X[:0], LABELS[:0])
    with pytest.raises(ValueError, match="NaN"):
        quick(TabularRegressor).fit(X, np.where(np.arange(ROWS) == 3, np.nan, VALUES))


def test_a_small_spread_around_a_large_mean_is_learned():
    rows = np.linspace(-1, 1, 200)[:, None]
    y = 1e9 + rows[:, 0]
    assert quick(TabularRegressor).fit(rows, y).score(rows, y) > 0.9


# --- How sure it is.


def test_the_temperature_never_makes_the_loss_worse():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 3)), rng.integers(0, 3, 500)
    loss = SoftmaxCrossEntropy()
    for scale in (0.1, 1, 30):
        t = temperature(loss, logits * scale, labels)
        assert loss(logits * scale / t, labels)[0] <= loss(logits * scale, labels)[0]
    sure = np.eye(3)[labels] * 0.1
    assert temperature(loss, sure, labels) < 0.1  # timid outputs that are right


@pytest.mark.slow
def test_sets_and_intervals_cover_what_they_promise():
    rows, y = load_diabetes(return_X_y=True)
    covered = []
    for seed in range(4):
        parts = train_test_split(rows, y, test_size=0.4, random_state=seed)
        ends = TabularRegressor(random_state=0).fit(parts[0], parts[2]).predict_interval(parts[1])
        covered.append(np.mean((ends[:, 0] <= parts[3]) & (parts[3] <= ends[:, 1])))
    assert 0.85 < np.mean(covered) < 0.96


def test_sets_and_intervals_grow_with_the_coverage(fitted):
    clf, reg = fitted[id(LABELS)], fitted[id(VALUES)]
    small, large = clf.predict_set(X, 0.5), clf.predict_set(X, 0.98)
    assert (large >= small).all() and small.any(axis=1).all() and large.shape == (ROWS, 2)
    narrow, wide = reg.predict_interval(X, 0.5), reg.predict_interval(X, 0.95)
    assert (wide[:, 1] - wide[:, 0] > narrow[:, 1] - narrow[:, 0]).all()
    both = fitted[id(CASES[4][1])].predict_interval(X)
    assert both.shape == (ROWS, 2, 2)
    with pytest.raises(ValueError, match="one class a row"):
        fitted[id(MARKS)].predict_set(X)
    with pytest.raises(ValueError, match="coverage must be in"):
        reg.predict_interval(X, 1.0)


@pytest.mark.parametrize("kind, y", CASES)
def test_attributions_add_up_and_find_the_column(kind, y, fitted):
    explained = fitted[id(y)].explain(X)
    total = explained.base + explained.values.sum(axis=1)
    np.testing.assert_allclose(total, explained.outputs, rtol=0, atol=1e-4)
    assert explained.values.shape == (ROWS, 5)
    with pytest.raises(ValueError, match="output must be from 0 to"):
        fitted[id(y)].explain(X, output=9)
    if y is VALUES:
        np.testing.assert_allclose(explained.outputs, fitted[id(y)].predict(X), rtol=1e-3)
        strength = dict(zip(explained.columns, np.abs(explained.values).mean(axis=0), strict=True))
        assert strength["number"] > 5 * strength["constant"]
        assert min(strength["number"], strength["code"]) > strength["colour"]


# --- Files, copies and searches.


@pytest.mark.parametrize("kind, y", CASES)
def test_copies_and_files_predict_the_same(kind, y, fitted, tmp_path):
    estimator = fitted[id(y)]
    expected = outputs(estimator, X)
    assert np.array_equal(outputs(pickle.loads(pickle.dumps(estimator)), X), expected)
    estimator.save(tmp_path / "model.npz")
    loaded = kind.load(tmp_path / "model.npz")
    assert np.array_equal(outputs(loaded, X), expected)
    assert np.array_equal(loaded.predict(X), estimator.predict(X))
    assert loaded.get_params() == estimator.get_params()
    assert loaded.feature_names_in_.tolist() == list(X)
    np.testing.assert_array_equal(loaded.explain(X).values, estimator.explain(X).values)
    predictor = minidl.load(tmp_path / "model.npz")
    found = predictor.predict_proba(X) if kind is TabularClassifier else predictor.predict(X)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
    ask = "predict_set" if kind is TabularClassifier else "predict_interval"
    for each in (loaded, predictor, estimator.predictor()) if y is not MARKS else ():
        np.testing.assert_allclose(getattr(each, ask)(X), getattr(estimator, ask)(X), rtol=1e-5)
    other = {TabularClassifier: TabularRegressor, TabularRegressor: TabularClassifier}[kind]
    with pytest.raises(CheckpointError, match="not saved by"):
        other.load(tmp_path / "model.npz")


def test_a_number_that_is_too_large_in_a_file_is_one_clear_error(fitted, tmp_path):
    predictor = fitted[id(VALUES)].predictor()
    fitted[id(VALUES)].save(tmp_path / "model.npz")
    notes = dict(minidl.load(tmp_path / "model.npz").notes)
    notes["fitted"] = {**notes["fitted"], "center": {"list": [10**400]}}
    replace(predictor, notes=notes).save(tmp_path / "model.npz")
    with pytest.raises(CheckpointError, match="not a usable estimator"):
        TabularRegressor.load(tmp_path / "model.npz")


def test_attributions_are_those_of_a_fine_sum_over_the_path():
    """Of a net with large weights, and in units of a regression's y."""
    rng = np.random.default_rng(0)
    sizes = ((6, 8), (8, 8), (8, 1))
    layers = [minidl.layers.SiLU() for _ in range(5)]
    layers[::2] = [linear_of(1.5 * rng.normal(size=s), rng.normal(size=s[1])) for s in sizes]
    net = Sequential(layers)
    inputs, mean = rng.normal(size=(300, 6)).astype(np.float32), np.full(6, 0.1)
    found, base, outputs = integrated_gradients(net, 1, inputs, mean, np.full((300, 1), 1e3))
    np.testing.assert_allclose(found.sum(axis=1), outputs - base, rtol=0, atol=0.1)
    expected = 1e3 * net.forward(inputs, train=False)[:, 0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=0.01)
    gradient = np.zeros(inputs.shape)
    for t in (np.arange(2000) + 0.5) / 2000:
        net.forward((mean + t * (inputs - mean)).astype(np.float32))
        gradient += net.backward(np.full((300, 1), 1e3, np.float32), need_dx=True) / 2000
    np.testing.assert_allclose(found, gradient * (inputs - mean), rtol=1e-3, atol=1e-3 * 300)


def test_a_pickle_holds_weights_and_gradients_and_no_more(fitted):
    estimator = fitted[id(VALUES)]
    assert len(pickle.dumps(estimator)) < 2.2 * estimator._model.params.nbytes


def test_a_search_and_an_importance():
    search = GridSearchCV(quick(TabularClassifier), {"n_members": [1, 2]}, cv=2)
    assert search.fit(X, LABELS).best_params_.keys() == {"n_members"}
    found = permutation_importance(search, X, LABELS, n_repeats=2, random_state=0)
    assert found.importances_mean.argmax() == 2
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()


class Pair(TabularRegressor):
    """A subclass with an `__init__` of its own."""

    def __init__(self, seed=0):
        super().__init__(n_members=2, random_state=seed)
        self.seed = seed


def test_subclasses_with_a_constructor_of_their_own(fitted, tmp_path):
    pair = clone(Pair(0)).fit(X, VALUES)
    assert np.array_equal(pair.predict(X), fitted[id(VALUES)].predict(X))
    pair.save(tmp_path / "pair.npz")
    assert np.array_equal(Pair.load(tmp_path / "pair.npz").predict(X), pair.predict(X))
    assert not hasattr(pair, "partial_fit")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_the_checks_of_an_estimator_pass_but_those_that_cannot(kind):
    # Dropout, batches and folds depend on the number of rows: a weight of 2 is not a row twice.
    # float32: the product of other rows, or in another order, differs by more than 1e-7.
    cannot = {
        "check_sample_weight_equivalence_on_dense_data",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
    }
    results = check_estimator(kind(n_members=2), on_skip=None, on_fail=None)
    failed = {r["check_name"] for r in results if r["status"] == "failed"}
    assert len(results) > 50 and failed <= cannot


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, load, mean, deviation",  # of the former preset, over 5 splits
    [
        (TabularClassifier, load_breast_cancer, 0.976, 0.007),
        (TabularRegressor, load_diabetes, 0.429, 0.050),
    ],
)
def test_a_bundled_table_reaches_its_measured_score(kind, load, mean, deviation):
    rows, y = load(return_X_y=True)
    stratify = y if kind is TabularClassifier else None
    parts = train_test_split(rows, y, test_size=0.25, random_state=0, stratify=stratify)
    estimator = kind(random_state=0).fit(parts[0], parts[2])
    assert estimator.score(parts[1], parts[3]) >= mean - 4 * deviation
    if kind is TabularClassifier:
        assert log_loss(parts[3], estimator.predict_proba(parts[1])) < 0.15
    assert Schema.infer(table_of(rows)).names
