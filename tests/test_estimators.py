"""The estimators: scikit-learn's contract, scikit-learn's models, and what it does not have."""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn.neural_network as theirs
from joblib import Parallel, delayed
from scipy.sparse import csc_array, csr_array
from scipy.sparse import csr_matrix as csr
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import minidl
from minidl import Linear, Sequential
from minidl.blas import automatic_threads
from minidl.config import load_config
from minidl.errors import CheckpointError, ConfigError
from minidl.estimators import MLPClassifier, MLPRegressor, mlp

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:scipy.optimize.*iprint:DeprecationWarning"),  # of their MLP
]

CONFIGS = Path(__file__).parents[1] / "configs"
IRIS = load_iris(return_X_y=True)
DIGITS = (lambda X, y: (X[:600] / 16, y[:600]))(*load_digits(return_X_y=True))
CANCER = (lambda X, y: (StandardScaler().fit_transform(X), y))(*load_breast_cancer(return_X_y=True))
LINES = (lambda X, y: (X, y / y.std()))(*make_regression(201, 6, noise=5, random_state=0))
PLANES = (lambda X, Y: (X, Y / Y.std()))(
    *make_regression(150, 6, n_targets=3, noise=5, random_state=0)
)
LABELS = (lambda X, Y: (X / 5, Y))(*make_multilabel_classification(150, random_state=0))
COUNTS = (lambda X, y: (X, np.exp(y).round()))(*LINES)

# Options with which an estimator keeps the whole contract. Those that cannot: `dropout` and batch
# normalization (their noise depends on where a row stands, so a weight of k is not a row given k
# times), `warm_start` (a second fit is meant to differ), `early_stopping` (it needs rows to hold
# out, also in scikit-learn), and for the classifier solver="lbfgs" (probabilities so near to 1 that
# they round to it, also in scikit-learn).
OPTIONS = {
    "defaults": {},
    "layers": {"layers": [{"linear": 20}, "layer_norm", "gelu", {"linear": "auto"}]},
    "weight_decay": {"weight_decay": 1e-3},
    "adamw": {"solver": "adamw"},
    "schedule": {"schedule": "cosine"},
    "clip_grad_norm": {"clip_grad_norm": 1.0},
    "ema": {"ema": 0.9},
    "class_weight": {"class_weight": "balanced"},
    "label_smoothing": {"label_smoothing": 0.1},
    "huber": {"loss": "huber"},
}
CASES = [
    pytest.param(
        kind, options, id=f"{kind.__name__}-{name}", marks=() if quick else pytest.mark.slow
    )
    for kind in (MLPClassifier, MLPRegressor)
    for name, options in OPTIONS.items()
    if options.keys() <= kind().get_params().keys() and (name, kind) != ("huber", MLPClassifier)
    for quick in [name == "defaults"]
]


def small(kind, **parameters):
    return kind(**{"hidden_layer_sizes": 12, "max_iter": 8, "random_state": 0, **parameters})


def weights(estimator):
    return np.concatenate([W.ravel() for W in estimator.coefs_ + estimator.intercepts_])


# --- The contract.


@pytest.mark.parametrize("kind, options", CASES)
def test_every_check_of_an_estimator_passes(kind, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(kind(**options), on_skip=None, on_fail=None)
    assert len(results) > 50
    assert [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")] == []
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= {
        "check_array_api_input",
        "check_classifiers_multilabel_output_format_decision_function",  # it has none
    }


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (MLPClassifier, "alpha", -1),
        (MLPClassifier, "solver", "sag"),
        (MLPClassifier, "activation", "softmax"),
        (MLPRegressor, "batch_size", 0),
        (MLPRegressor, "dropout", 1.0),
        (MLPRegressor, "weight_decay", -0.1),
        (MLPClassifier, "ema", 1.0),
        (MLPClassifier, "warm_start", "again"),
        (MLPClassifier, "momentum", "much"),
    ],
)
def test_a_parameter_out_of_range_is_named(kind, name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__} must be"):
        small(kind, **{name: value}).fit(*IRIS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "mse"}, "loss must be one for classification"),
        ({"loss": "sigmoid_cross_entropy"}, "two classes or several labels"),
        ({"loss": "nothing"}, "loss: unknown loss 'nothing'"),
        ({"loss": "softmax_cross_entropy", "label_smoothing": 0.1}, "label_smoothing is for"),
        ({"schedule": "nothing"}, "schedule: unknown schedule 'nothing'"),
        ({"schedule": {"one_cycle": {"peak": 2.0}}}, "peak must be in"),
        ({"layers": ["rely"]}, r"layers.0: unknown layer 'rely'; did you mean 'relu'"),
        ({"layers": [{"linear": 5}]}, "layers end with 5 outputs, but the targets need 3"),
        (
            {"layers": ["relu", {"linear": 10**12}]},
            r"layers.1 \(linear\): .* GiB; this machine has",
        ),
        ({"layers": [{"linear": "auto"}], "dropout": 0.5}, "dropout is for hidden_layer_sizes"),
        ({"class_weight": {7: 2.0}}, r"class_weight names \[7\]"),
        ({"momentum": 1, "solver": "sgd"}, r"momentum must be in \[0, 1\)"),
        ({"solver": "lbfgs", "dropout": 0.5}, "layer 2 is Dropout"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes must be > 0, got \[5, 0\]"),
        ({"hidden_layer_sizes": (2.5,)}, r"hidden_layer_sizes must be whole numbers, got \[2\.5\]"),
    ],
)
def test_what_does_not_go_together_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        small(MLPClassifier, **options).fit(*IRIS)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_the_documentation_is_whole(kind):
    text = kind.__doc__
    assert "<shared>" not in text and "clips probabilities in the loss" in text
    parameters = text.partition("Attributes")[0]
    for name in kind().get_params():
        assert re.search(rf"^(.*, )?{name}(, .*)? : ", parameters, re.MULTILINE), name


# --- The same random_state gives scikit-learn's model.


@pytest.mark.parametrize(
    "data, options",
    [
        (DIGITS, {}),
        (DIGITS, {"solver": "sgd", "learning_rate_init": 0.1, "batch_size": 33}),
        (DIGITS, {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5}),
        (IRIS, {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.1}),
        (IRIS, {"shuffle": False, "activation": "logistic", "hidden_layer_sizes": (7, 5)}),
        (IRIS, {"early_stopping": True, "activation": "tanh", "max_iter": 60}),
        (IRIS, {"warm_start": True}),
        (CANCER, {"early_stopping": True, "tol": 0.1, "n_iter_no_change": 3, "max_iter": 50}),
        (CANCER, {"early_stopping": True, "n_iter_no_change": 3}),
        (CANCER, {"alpha": 30.0, "momentum": 0.5, "nesterovs_momentum": False, "solver": "sgd"}),
        (CANCER, {"solver": "lbfgs", "max_iter": 15}),
        (LABELS, {"batch_size": 40}),
    ],
)
def test_a_classifier_is_that_of_scikit_learn(data, options):
    options = {"hidden_layer_sizes": 20, "max_iter": 12, "random_state": 3, **options}
    mine, other = MLPClassifier(**options).fit(*data), theirs.MLPClassifier(**options).fit(*data)
    if "warm_start" in options:
        mine.fit(*data), other.fit(*data)
    assert_same_fit(mine, other)
    np.testing.assert_array_equal(mine.predict(data[0]), other.predict(data[0]))
    np.testing.assert_allclose(
        mine.predict_proba(data[0]), other.predict_proba(data[0]), 1e-6, 1e-9
    )


@pytest.mark.parametrize(
    "data, options",
    [
        (LINES, {}),  # 201 rows: the last batch has one
        (LINES, {"solver": "sgd", "learning_rate_init": 0.01, "early_stopping": True}),
        (PLANES, {"solver": "sgd", "max_iter": 40, "n_iter_no_change": 2, "tol": 0.01}),
        (PLANES, {"alpha": 0.003, "batch_size": 64}),
        (LINES, {"solver": "lbfgs", "max_iter": 15}),
        (COUNTS, {"loss": "poisson", "early_stopping": True}),
    ],
)
def test_a_regressor_is_that_of_scikit_learn(data, options):
    if options.get("loss") and "loss" not in theirs.MLPRegressor().get_params():
        pytest.skip("scikit-learn has this loss since 1.7")
    options = {"hidden_layer_sizes": 20, "max_iter": 12, "random_state": 3, **options}
    mine, other = MLPRegressor(**options).fit(*data), theirs.MLPRegressor(**options).fit(*data)
    assert_same_fit(mine, other)
    np.testing.assert_allclose(mine.predict(data[0]), other.predict(data[0]), 1e-6, 1e-9)


def assert_same_fit(mine, other):
    np.testing.assert_allclose(weights(mine), weights(other), 1e-6, 1e-9)
    for name in ("n_iter_", "n_layers_", "n_outputs_", "out_activation_", "t_"):
        assert getattr(mine, name) == getattr(other, name), name
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_"):
        if getattr(other, name, None) is not None:
            # With several targets the penalty, a thousandth here, is divided by their number.
            np.testing.assert_allclose(getattr(mine, name), getattr(other, name), 2e-3)
    assert {n for n in vars(other) if n.endswith("_")} <= {n for n in vars(mine)}


def test_partial_fit_goes_on_as_scikit_learn_does():
    options = {"hidden_layer_sizes": 9, "random_state": 0, "solver": "sgd", "batch_size": 64}
    mine, other = MLPClassifier(**options), theirs.MLPClassifier(**options)
    for _ in range(5):
        for part in (slice(0, 300), slice(300, 600)):
            mine.partial_fit(DIGITS[0][part], DIGITS[1][part], classes=range(10))
            other.partial_fit(DIGITS[0][part], DIGITS[1][part], classes=range(10))
    assert_same_fit(mine, other)
    assert not hasattr(small(MLPClassifier, solver="lbfgs"), "partial_fit")
    for name, value in {"ema": 0.9, "schedule": "cosine"}.items():
        with pytest.raises(AttributeError) as caught:
            small(MLPRegressor, **{name: value}).partial_fit(*LINES)
        assert f"partial_fit does not support {name}" in str(caught.value.__cause__)


def test_sample_weights_are_those_of_scikit_learn():
    if "sample_weight" not in signature(theirs.MLPRegressor.fit).parameters:
        pytest.skip("scikit-learn has weights since 1.7")
    weight = np.random.default_rng(0).integers(0, 4, len(LINES[0])).astype(float)
    options = {"hidden_layer_sizes": 9, "random_state": 0, "max_iter": 9, "early_stopping": True}
    mine = MLPRegressor(**options).fit(*LINES, weight)
    assert_same_fit(mine, theirs.MLPRegressor(**options).fit(*LINES, weight))


# --- What goes in and comes out.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_model_computes_in_the_dtype_of_X(dtype):
    X, y = LINES[0].astype(dtype), LINES[1]
    regressor = small(MLPRegressor).fit(X, y)
    assert {W.dtype.type for W in regressor.coefs_} == {dtype}
    assert regressor.predict(X).dtype == dtype
    assert small(MLPClassifier).fit(X, y > 0).predict_proba(X).dtype == dtype
    assert small(MLPRegressor, solver="lbfgs").fit(X, y).predict(X).dtype == dtype


def test_any_kind_of_table_gives_the_same_model():
    X, y = CANCER
    names = [f"c{i}" for i in range(X.shape[1])]
    expected = small(MLPClassifier).fit(X, y).predict_proba(X)
    for table in (csr(X), csr_array(X), csc_array(X)):
        found = small(MLPClassifier).fit(table, y).predict_proba(table)
        np.testing.assert_allclose(found, expected, 1e-9)
    frame = pd.DataFrame(X, columns=names)
    for table in (frame, pl.DataFrame(frame.to_dict("list"))):
        clf = small(MLPClassifier).fit(table, y)
        np.testing.assert_allclose(clf.predict_proba(table), expected, 1e-9)
        if hasattr(theirs.MLPClassifier(max_iter=1).fit(table, y), "feature_names_in_"):
            assert clf.feature_names_in_.tolist() == names
    clf = small(MLPClassifier).fit(frame, y)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame[names[::-1]])


def test_labels_come_back_as_they_were_given():
    X, y = IRIS
    for labels in (np.array(["x", "y", "z"])[y], np.array(["x", "y", "z"], object)[y], y * 7 - 3):
        clf = small(MLPClassifier, max_iter=100, learning_rate_init=0.01).fit(X, labels)
        assert clf.score(X, labels) > 0.9
        assert set(clf.predict(X)) <= set(labels)
        assert clf.classes_.dtype == theirs.MLPClassifier(max_iter=1).fit(X, labels).classes_.dtype
    assert small(MLPClassifier).fit(X, y > 0).predict(X).dtype == bool
    X = CANCER[0]
    one = small(MLPClassifier, learning_rate_init=1e-9).fit(X, np.full(len(X), "only"))
    assert set(one.predict(X)) == {"only"} and (one.predict_proba(X) == 1).all()


def test_several_labels_a_row():
    X, Y = LABELS
    options = {"max_iter": 300, "learning_rate_init": 0.03, "hidden_layer_sizes": 40}
    clf = small(MLPClassifier, **options).fit(X, Y)
    assert clf.score(X, Y) > 0.9 and clf.predict(X).dtype == Y.dtype
    sparse = small(MLPClassifier, **options).fit(X, csr(Y))
    np.testing.assert_array_equal(sparse.predict(X).toarray(), clf.predict(X))
    with pytest.raises(ValueError, match="Multioutput target data"):
        small(MLPClassifier).fit(X, np.arange(300).reshape(150, 2) % 3)


@pytest.mark.parametrize("sparse", [False, True])
def test_one_hot_targets_come_back_one_hot(sparse):
    X, y = IRIS
    marks = np.eye(3, dtype=int)[y]
    given = csr(marks) if sparse else marks
    options = {"loss": "softmax_cross_entropy", "max_iter": 200, "learning_rate_init": 0.01}
    clf = small(MLPClassifier, **options).fit(X, given)
    by_label = small(MLPClassifier, **options).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), by_label.predict_proba(X))
    found = clf.predict(X)
    assert (hasattr(found, "tocsr"), found.shape) == (sparse, (150, 3))
    assert clf.score(X, given) == by_label.score(X, y) > 0.9
    weighted = small(MLPClassifier, class_weight={1: 5.0}, **options).fit(X, given)
    np.testing.assert_array_equal(
        weights(weighted), weights(small(MLPClassifier, class_weight={1: 5.0}, **options).fit(X, y))
    )
    marks[3] = [1, 1, 0]
    with pytest.raises(ValueError, match="one 1 in each row for this loss, but row 3 has 2"):
        small(MLPClassifier, **options).fit(X, csr(marks) if sparse else marks)


def nullable_targets():
    pyarrow = pytest.importorskip("pyarrow")
    y = IRIS[1]
    words = np.array(["x", "y", "z"])[y]
    yield pd.Series(words, dtype="string[pyarrow]"), "U"
    yield pd.Series(words, dtype=pd.ArrowDtype(pyarrow.string())), "U"
    yield pd.Series(words, dtype="category"), "U"
    yield pyarrow.chunked_array([words.tolist()]), "U"
    yield pl.Series(words.tolist(), dtype=pl.Categorical), "U"
    yield pd.Series(y, dtype="Int64"), "i"
    yield pd.Series(y, dtype="int64[pyarrow]"), "i"
    yield pl.Series(y.tolist()), "i"
    yield pd.Series(y > 0, dtype="boolean"), "b"


def test_nullable_and_arrow_backed_targets():
    X, y = IRIS
    expected = small(MLPClassifier).fit(X, y).predict_proba(X)
    for labels, kind in nullable_targets():
        clf = small(MLPClassifier).fit(X, labels, X_val=X, y_val=labels)
        assert clf.classes_.dtype.kind == kind and clf.predict(X).dtype.kind == kind
        if len(clf.classes_) == 3:
            plain = small(MLPClassifier).fit(X, labels)
            np.testing.assert_array_equal(plain.predict_proba(X), expected)
        part = small(MLPClassifier).partial_fit(X, labels, classes=clf.classes_)
        assert part.partial_fit(X, labels).classes_.dtype.kind == kind
    for values in (
        pd.Series(X[:, 0], dtype="double[pyarrow]"),
        pd.Series(X[:, 0]).astype("Float64"),
    ):
        mine = small(MLPRegressor).fit(X, values)
        np.testing.assert_array_equal(weights(mine), weights(small(MLPRegressor).fit(X, X[:, 0])))
    holes = pd.Series([None, *IRIS[1][1:]], dtype="Int64")
    with pytest.raises(ValueError, match="NaN"):
        small(MLPClassifier).fit(X, holes)


def test_sparse_rows_need_a_linear_layer_first():
    X, y = IRIS
    for first in ("relu", "layer_norm", "batch_norm", {"dropout": 0.1}):
        clf = small(MLPClassifier, layers=[first, {"linear": "auto"}])
        with pytest.raises(ValueError, match="sparse X needs a linear layer first"):
            clf.fit(csr(X), y)
        with pytest.raises(ValueError, match="sparse X needs a linear layer first"):
            clf.fit(X, y).predict(csr(X))


def test_an_array_that_needs_no_check_of_scikit_learns_is_checked_all_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), np.arange(40) % 3
    clf = MLPClassifier((5,), max_iter=2, random_state=0).fit(X, y)
    expected = clf.predict_proba(X.tolist())
    bad = X.copy()
    bad[7, 1] = np.nan
    for wrong in (bad, X[:, :2], X[0], X[:0]):
        with pytest.raises(ValueError):
            clf.predict_proba(wrong)
    monkeypatch.setattr(mlp, "validate_data", None)
    assert np.array_equal(clf.predict_proba(X), expected)
    assert np.allclose(clf.predict_proba(X[3:4]), expected[3:4], rtol=1e-12)


def test_predict_from_several_threads():
    X, y = DIGITS
    clf = small(MLPClassifier).fit(X, y)
    expected = clf.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(clf.predict_proba, [X] * 40):
            np.testing.assert_array_equal(found, expected)


# --- The weights.


def copies(estimator):
    yield copy.deepcopy(estimator)
    yield copy.copy(estimator)
    yield pickle.loads(pickle.dumps(estimator))


def test_coefs_are_live_views_also_after_a_copy():
    X, y = IRIS
    for clf in (small(MLPClassifier).fit(X, y), *copies(small(MLPClassifier).fit(X, y))):
        clf.coefs_[1][:] = 0
        clf.intercepts_[1][:] = [0, 5, 0]
        assert set(clf.predict(X)) == {1}
        clf.partial_fit(X, y)
        assert "coefs_" not in clf.__getstate__()  # or a pickle would hold them twice
        assert clf.coefs_[1].any() and np.shares_memory(clf.coefs_[0], clf._model.params)


def test_a_copy_is_trained_on_its_own():
    X, y = IRIS
    for options in ({}, {"weight_decay": 0.1}):
        clf = small(MLPClassifier, **options).fit(X, y)
        before = weights(clf)
        twins = [twin.partial_fit(X, y) for twin in (copy.deepcopy(clf), *copies(clf)) if twin]
        np.testing.assert_array_equal(weights(twins[0]), weights(twins[1]))
        assert not np.array_equal(weights(twins[0]), before)
        np.testing.assert_array_equal(weights(twins[0]), weights(twins[3]))


def test_weights_set_from_outside_are_copied_in():
    X, y = IRIS
    clf, other = small(MLPClassifier).fit(X, y), small(MLPClassifier, random_state=1).fit(X, y)
    clf.coefs_ = [W.copy() for W in other.coefs_]
    clf.intercepts_[0], clf.intercepts_[1] = other.intercepts_
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))
    clf.coefs_[0][:] = 0
    assert not np.array_equal(clf.predict_proba(X), other.predict_proba(X))
    assert other.coefs_[0].any()
    clf.coefs_[0] = np.zeros((3, 3))
    with pytest.raises(ValueError, match="coefs_ must be arrays of the shapes"):
        clf.predict(X)


def test_weights_set_before_any_fit_are_no_fit():
    regressor = small(MLPRegressor, solver="sgd", learning_rate_init=1e-9)
    regressor.coefs_ = [np.ones((6, 12)), np.ones((12, 1))]
    regressor.intercepts_ = [np.zeros(12), np.zeros(1)]
    with pytest.raises(NotFittedError):
        regressor.predict(LINES[0])
    regressor.partial_fit(*LINES)
    np.testing.assert_allclose(regressor.coefs_[0], 1, atol=1e-5)
    assert regressor.predict(LINES[0]).shape == (201,)


def test_a_pickle_holds_the_weights_and_the_averages():
    options = {"hidden_layer_sizes": (200, 200), "max_iter": 1}
    clf = small(MLPClassifier, **options).fit(*DIGITS)
    # Weights, their gradients, and two averages of Adam.
    assert len(pickle.dumps(clf)) < 4.2 * clf._model.params.nbytes
    twin = pickle.loads(pickle.dumps(clf)).partial_fit(*DIGITS)
    np.testing.assert_array_equal(weights(twin), weights(clf.partial_fit(*DIGITS)))


def test_what_is_set_holds_also_where_it_is_the_default():
    set_ = {"hidden_layer_sizes": (100,), "activation": "relu", "dropout": 0.0, "max_iter": 200}
    plain, given = MLPClassifier(random_state=0), MLPClassifier(random_state=0, **set_)
    assert given.get_params() == plain.get_params()
    np.testing.assert_array_equal(weights(given.fit(*IRIS)), weights(plain.fit(*IRIS)))
    search = GridSearchCV(small(MLPClassifier), {"hidden_layer_sizes": [(100,)]}, cv=2).fit(*IRIS)
    best = search.best_estimator_.set_params(solver="adamw", max_iter=2).fit(*IRIS)
    assert best.coefs_[0].shape == (4, 100) and best.n_iter_ == 2
    assert type(best._optimizer).__name__ == "AdamW" and best._optimizer.weight_decay == 0.01


class Wide(MLPClassifier):
    """A subclass with an `__init__` of its own."""

    def __init__(self, width=8, *, random_state=None):
        super().__init__(hidden_layer_sizes=(width, width), max_iter=7, random_state=random_state)
        self.width = width


class Bare(MLPRegressor):
    """A subclass that sets none of the parameters."""

    def __init__(self, epochs=3):
        self.epochs = epochs

    def fit(self, X, y):
        self.max_iter = self.epochs
        return super().fit(X, y)


def test_subclasses_with_a_constructor_of_their_own(tmp_path):
    X, y = IRIS
    clf = clone(Wide(5, random_state=0)).fit(X, y)
    assert [W.shape[1] for W in clf.coefs_] == [5, 5, 3] and clf.n_iter_ == 7
    expected = MLPClassifier((5, 5), max_iter=7, random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))
    clf.save(tmp_path / "wide.npz")
    loaded = Wide.load(tmp_path / "wide.npz")
    np.testing.assert_array_equal(loaded.predict_proba(X), expected.predict_proba(X))
    assert loaded.get_params() == {"width": 5, "random_state": 0}
    assert loaded.to_config().train.epochs == 7
    search = GridSearchCV(Bare(), {"epochs": [4, 5]}, cv=2).fit(*LINES)
    assert search.best_estimator_.n_iter_ in (4, 5)


# --- What scikit-learn does not have.


@pytest.mark.parametrize("kind, data", [(MLPClassifier, IRIS), (MLPRegressor, PLANES)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "dropout": 0.2, "batch_size": 32},
        {"early_stopping": True, "validation_fraction": 0.3},
        {"ema": 0.9, "solver": "adamw"},
        {"layers": [{"linear": 9}, "batch_norm", "relu", {"dropout": 0.2}, {"linear": "auto"}]},
    ],
)
def test_an_exact_warm_start_is_one_fit(kind, data, options):
    options = {"n_iter_no_change": np.inf, "warm_start": "exact", "random_state": 2, **options}
    once = small(kind, **{**options, "max_iter": 20}).fit(*data)
    twice = small(kind, **{**options, "max_iter": 10}).fit(*data).fit(*data)
    np.testing.assert_array_equal(twice._model.params, once._model.params)
    np.testing.assert_array_equal(twice._model.buffers, once._model.buffers)
    assert twice.loss_curve_ == once.loss_curve_ and twice.history_ == once.history_
    resumed = pickle.loads(pickle.dumps(small(kind, **{**options, "max_iter": 10}).fit(*data)))
    np.testing.assert_array_equal(resumed.fit(*data)._model.params, once._model.params)


def test_an_exact_warm_start_needs_the_same_rows():
    clf = small(MLPRegressor, warm_start="exact").fit(*LINES)
    with pytest.raises(ValueError, match="before it had 201 rows, now 200"):
        clf.fit(LINES[0][:200], LINES[1][:200])


def test_weight_decay_does_not_depend_on_the_batch_size():
    """The pull on the weights after one epoch with no other gradient to speak of."""
    X, y = np.zeros((64, 3)), np.zeros(64)
    norms = []
    for batch_size, n_epochs in ((8, 1), (32, 4)):  # eight steps each
        regressor = MLPRegressor(
            solver="sgd", momentum=0, learning_rate_init=0.1, weight_decay=0.5, random_state=0,
            batch_size=batch_size, max_iter=n_epochs, hidden_layer_sizes=4,
        ).fit(X, y)  # fmt: skip
        norms.append(np.linalg.norm(regressor.coefs_[0]))
    start = MLPRegressor(solver="sgd", random_state=0, hidden_layer_sizes=4, alpha=0,
                         learning_rate_init=1e-12, max_iter=1).fit(X, y)  # fmt: skip
    expected = np.linalg.norm(start.coefs_[0]) * (1 - 0.1 * 0.5) ** 8
    np.testing.assert_allclose(norms, expected, 1e-6)


def test_class_weights_count_as_sample_weights():
    X, y = make_classification(150, 5, weights=[0.9], random_state=0)
    counts = np.bincount(y)
    by_hand = small(MLPClassifier).fit(X, y, sample_weight=len(y) / (2 * counts)[y])
    balanced = small(MLPClassifier, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(weights(balanced), weights(by_hand), 1e-9)
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    repeated = small(MLPClassifier, class_weight="balanced").fit(
        X.repeat(weight, 0), y.repeat(weight)
    )
    balanced.fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(weights(balanced), weights(repeated), 1e-6)
    by_dict = small(MLPClassifier, class_weight={1: 3.0}).fit(X, y)
    tripled = small(MLPClassifier).fit(X, y, sample_weight=np.where(y == 1, 3.0, 1.0))
    np.testing.assert_array_equal(weights(by_dict), weights(tripled))
    with_more = small(MLPClassifier, class_weight={1: 3.0, 2: 9.0}).fit(X, y)  # a fold lacks 2
    np.testing.assert_array_equal(weights(with_more), weights(tripled))


def test_numpy_integers_are_integers():
    four = np.int64(4)
    options = {
        "layers": [{"linear": four}, "relu", {"linear": {"n_out": "auto", "bias": np.True_}}],
        "schedule": {"step": {"every": np.int32(2), "gamma": np.float64(0.5)}},
        "loss": {"name": "softmax_cross_entropy", "label_smoothing": np.float32(0)},
        "max_iter": np.int64(3),
        "batch_size": np.int16(50),
        "n_iter_no_change": four,
    }
    clf = small(MLPClassifier, **options).fit(*IRIS)
    assert clf.coefs_[0].shape == (4, 4)
    assert clf.to_config().model[0].options["n_out"] == 4
    assert small(MLPClassifier, hidden_layer_sizes=(four,)).fit(*IRIS).coefs_[0].shape == (4, 4)


@pytest.mark.parametrize("data", [IRIS, CANCER])
def test_label_smoothing_keeps_probabilities_from_the_ends(data):
    options = {"max_iter": 400, "learning_rate_init": 0.03, "label_smoothing": 0.2, "alpha": 0}
    clf = small(MLPClassifier, **options).fit(*data)
    n = len(clf.classes_)
    assert abs(np.median(clf.predict_proba(data[0]).max(axis=1)) - (0.8 + 0.2 / n)) < 0.03


def test_validation_data_of_ones_own():
    X, y = DIGITS
    train, held_out = slice(0, 400), slice(400, 600)
    clf = small(MLPClassifier, max_iter=40, learning_rate_init=0.05)
    clf.fit(X[train], y[train], X_val=X[held_out], y_val=y[held_out])
    scores = [record["validation_accuracy"] for record in clf.history_]
    assert clf.score(X[held_out], y[held_out]) == max(scores) == clf.best_validation_score_
    assert clf.validation_scores_ == scores and len(pd.DataFrame(clf.history_)) == clf.n_iter_
    assert {"train_loss", "train_accuracy", "validation_loss"} <= clf.history_[0].keys()
    stopped = small(MLPClassifier, max_iter=300, early_stopping=True, n_iter_no_change=2)
    stopped.fit(X[train], y[train], X_val=X[held_out], y_val=y[held_out])
    assert stopped.n_iter_ < 300 and stopped.t_ == 400 * stopped.n_iter_
    weighted = clf.fit(
        X[train], y[train], X_val=X[held_out], y_val=y[held_out], sample_weight_val=y[held_out] == 3
    )
    assert weighted.score(X[held_out], y[held_out], y[held_out] == 3) == max(clf.validation_scores_)


@pytest.mark.parametrize(
    "change",
    [{"activation": "tanh"}, {"dropout": 0.5}, {"layers": ["relu"]}, {"hidden_layer_sizes": 5}],
)
def test_a_warm_start_cannot_change_the_model(change):
    clf = small(MLPClassifier, warm_start=True, max_iter=2).fit(*IRIS)
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be that of the fit"):
        clf.set_params(**change).fit(*IRIS)


def test_a_warm_start_keeps_the_best_weights_of_before():
    clf = small(MLPClassifier, warm_start=True, early_stopping=True, max_iter=60)
    clf.set_params(learning_rate_init=0.01).fit(*CANCER)
    before, best = weights(clf), clf.best_validation_score_
    clf.set_params(solver="sgd", learning_rate_init=50.0, max_iter=2).fit(*CANCER)  # only harms
    assert clf.best_validation_score_ == best == max(clf.validation_scores_)
    np.testing.assert_array_equal(weights(clf), before)


def test_losses_of_a_config():
    X, y = LINES
    spread = small(MLPRegressor, loss={"quantile": [0.1, 0.9]}, max_iter=300, alpha=0).fit(X, y)
    low, high = spread.predict(X).T
    assert 0.6 < np.mean((low <= y) & (y <= high)) < 0.95
    outlier = y.copy()
    outlier[:10] += 1000
    options = {"max_iter": 200, "learning_rate_init": 0.01}
    assert small(MLPRegressor, loss={"poisson": {}}).fit(*COUNTS).out_activation_ == "exp"
    robust = small(MLPRegressor, loss="mae", **options).fit(X, outlier).score(X, y)
    assert robust > 0.9 > small(MLPRegressor, **options).fit(X, outlier).score(X, y)
    two = small(MLPClassifier, loss="softmax_cross_entropy").fit(*CANCER)
    assert two.coefs_[-1].shape[1] == 2 and two.out_activation_ == "softmax"
    with pytest.raises(ValueError, match="must be at least 0"):
        small(MLPRegressor, loss="poisson").fit(X, y)


def test_a_schedule_is_followed_to_its_end():
    clf = small(MLPClassifier, schedule={"one_cycle": {"peak": 0.5}}, max_iter=20, tol=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # planned to end there: nothing to warn of
        clf.fit(*IRIS)
    rates = [record["learning_rate"] for record in clf.history_]
    assert len(rates) == 20 and max(rates) == pytest.approx(0.001, rel=0.1)
    assert rates == pytest.approx(rates[::-1], abs=1e-9)


def test_dropout_draws_new_masks_in_each_partial_fit():
    X, y = IRIS
    clf = small(MLPClassifier, dropout=0.5, learning_rate_init=1e-9, shuffle=False)
    losses = [clf.partial_fit(X, y, classes=range(3)).loss_ for _ in range(5)]
    assert len(set(np.round(losses, 6))) == 5


def test_the_best_weights_survive_a_divergence():
    X, y = IRIS
    regressor = MLPRegressor(
        activation="identity", solver="sgd", learning_rate_init=1, early_stopping=True,
        random_state=0,
    )  # fmt: skip
    with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        regressor.fit(X, y)
    assert any("the best weights are kept" in str(each.message) for each in caught)
    assert np.isnan(regressor.validation_scores_[-1]) and np.isfinite(regressor.predict(X)).all()
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        regressor.set_params(early_stopping=False).fit(X, y)


@pytest.mark.parametrize("options", [{"early_stopping": True}, {}])
def test_without_a_finite_epoch_there_is_no_model(options):
    X, y = IRIS
    validation = {} if options else {"X_val": X, "y_val": y}
    regressor = MLPRegressor(
        activation="identity", solver="sgd", learning_rate_init=1e300, **options
    )
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        regressor.fit(X, y, **validation)
    with pytest.raises(NotFittedError):
        regressor.predict(X)
    regressor.set_params(learning_rate_init=0.001, max_iter=3).fit(X, y, **validation)
    expected = regressor.predict(X)
    regressor.set_params(learning_rate_init=1e300, warm_start=False)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        regressor.fit(X, y, **validation)
    np.testing.assert_array_equal(regressor.predict(X), expected)


def test_the_statistics_of_before_survive_a_divergence():
    X, y = IRIS
    layers = [{"linear": 4}, "batch_norm", "relu", {"linear": "auto"}]
    options = {"early_stopping": True, "solver": "sgd", "max_iter": 2, "random_state": 0}
    clf = MLPClassifier(layers=layers, **options)
    before = clf.fit(X, y).predict_proba(X)
    clf.set_params(warm_start=True, learning_rate_init=1e200)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        clf.fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), before)


def test_a_failed_fit_leaves_everything_as_it_was():
    X, y = IRIS
    layers = [{"linear": 4}, "batch_norm", "relu", {"linear": "auto"}]
    clf = MLPClassifier(layers=layers, solver="sgd", random_state=0, learning_rate_init=0.01)
    for _ in range(3):
        clf.partial_fit(X, y, classes=range(3))
    before, history = clf.predict_proba(X), list(clf.history_)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        clf.partial_fit(X * 1e200, y)
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    assert clf.history_ == history and clf.t_ == 450
    clf.partial_fit(X, y)
    assert np.isfinite(clf.loss_) and not np.array_equal(clf.predict_proba(X), before)
    for wrong in ({"layers": ["rely"]}, {"loss": "mse"}, {"hidden_layer_sizes": 0}):
        clf = small(MLPClassifier, **wrong)
        with pytest.raises(ValueError):
            clf.fit(X, y)
        with pytest.raises(NotFittedError):
            clf.predict(X)
        with pytest.raises(ValueError):
            clf.partial_fit(X, y, classes=[0, 1, 2])
        assert not hasattr(clf, "classes_")


def test_statistics_that_overflow_are_no_fit():
    X, y = np.random.default_rng(0).standard_normal((100, 4)) * 1e200, np.arange(100) % 2
    layers = ["batch_norm", {"linear": 4}, {"linear": "auto"}]
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
        MLPClassifier(layers=layers, max_iter=3).fit(X, y)


@pytest.mark.parametrize("name", ["y_val", "sample_weight_val"])
def test_validation_targets_need_rows(name):
    X, y = IRIS
    with pytest.raises(ValueError, match="need X_val"):
        small(MLPClassifier).fit(X, y, **{name: y})


def test_what_is_printed(capsys):
    small(MLPClassifier, verbose=True, max_iter=2).fit(*IRIS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Iteration 1, loss = ") and len(lines) == 2
    small(MLPClassifier, progress=True, max_iter=3).fit(*IRIS)
    assert "3/3" in capsys.readouterr().err


# --- Both ways between worlds.


@pytest.mark.parametrize(
    "kind, data, options",
    [
        (MLPClassifier, IRIS, {"class_weight": {0: 2.0}, "early_stopping": True}),
        (MLPClassifier, (IRIS[0], np.array(["x", "y", "z"])[IRIS[1]]), {"label_smoothing": 0.1}),
        (MLPClassifier, CANCER, {"layers": [{"linear": 5}, "batch_norm", {"linear": "auto"}]}),
        (MLPClassifier, LABELS, {"n_iter_no_change": np.inf}),
        (MLPRegressor, PLANES, {"solver": "lbfgs", "hidden_layer_sizes": (4, 3)}),
        (MLPRegressor, COUNTS, {"loss": "poisson", "schedule": {"cosine": {"final": 0.1}}}),
        (MLPRegressor, LINES, {"loss": {"quantile": [0.2, 0.8]}}),
        (MLPRegressor, (LINES[0], LINES[1] + 9), {"loss": {"mse": {"scale_targets": True}}}),
    ],
)
def test_a_saved_estimator_predicts_the_same(kind, data, options, tmp_path):
    path = tmp_path / "model.npz"
    X, y = data
    fitted = small(kind, **options).fit(pd.DataFrame(X).add_prefix("c"), y)
    fitted.save(path)
    loaded = kind.load(path)
    frame = pd.DataFrame(X).add_prefix("c")
    np.testing.assert_array_equal(loaded.predict(frame), fitted.predict(frame))
    np.testing.assert_array_equal(minidl.load(path).predict(X), fitted.predict(frame))
    if kind is MLPClassifier:
        np.testing.assert_array_equal(loaded.predict_proba(frame), fitted.predict_proba(frame))
    assert loaded.get_params() == fitted.get_params()
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    for name in ("n_iter_", "loss_", "history_", "n_outputs_", "n_layers_", "out_activation_"):
        assert getattr(loaded, name, None) == getattr(fitted, name, None), name
    if hasattr(loaded, "partial_fit") and not loaded.early_stopping:
        before = weights(loaded)
        assert not np.array_equal(weights(loaded.partial_fit(frame, y)), before)
    if loaded.layers is None:  # that it was loaded does not make it another model
        with pytest.raises(ValueError, match="hidden_layer_sizes must be that of the fit"):
            loaded.set_params(hidden_layer_sizes=3, warm_start=True).fit(frame, y)


@pytest.mark.parametrize("unit", ["D", "ns"])
def test_dates_as_labels_survive_a_file(unit, tmp_path):
    days = np.array(["2020-01-01", "2021-01-01", "2022-01-01"], f"M8[{unit}]")[IRIS[1]]
    clf = small(MLPClassifier).fit(IRIS[0], days)
    clf.save(tmp_path / "model.npz")
    loaded = MLPClassifier.load(tmp_path / "model.npz")
    assert loaded.classes_.dtype == clf.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(IRIS[0]), clf.predict(IRIS[0]))
    np.testing.assert_array_equal(
        minidl.load(tmp_path / "model.npz").predict(IRIS[0]), clf.predict(IRIS[0])
    )


def test_a_parameter_that_no_file_can_hold_is_named(tmp_path):
    clf = small(MLPClassifier).fit(*IRIS)
    clf.schedule = lambda step: 1.0
    with pytest.raises(ValueError, match=r"schedule=.* cannot be saved"):
        clf.save(tmp_path / "model.npz")


def test_a_loss_that_is_not_finite_is_no_fit_of_lbfgs():
    for kind in (MLPClassifier, MLPRegressor):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter"):
            small(kind, solver="lbfgs").fit(IRIS[0] * 1e155, IRIS[1])


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    small(MLPRegressor).fit(*LINES).save(path)
    with pytest.raises(CheckpointError, match=r"not saved by MLPClassifier\.save"):
        MLPClassifier.load(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"model\.npz"):
        MLPRegressor.load(path)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "moons", "digits"])
@pytest.mark.filterwarnings("ignore:data.augmentation")
def test_a_config_makes_an_estimator_and_back(name):
    path = f"{CONFIGS}/{name}.yaml"
    clf, config = MLPClassifier.from_config(path), load_config(path)
    back = clf.to_config(name)
    assert back.model == config.model and back.loss == config.loss and back.seed == config.seed
    for key in ("epochs", "batch_size", "optimizer", "schedule", "ema", "early_stopping"):
        assert getattr(back.train, key) == getattr(config.train, key), key
    assert MLPClassifier.from_config(back).get_params() == clf.get_params()
    assert clone(clf).set_params(max_iter=3).fit(*CANCER).n_iter_ == 3


def test_what_a_config_cannot_say():
    for options in (
        {"solver": "lbfgs"},
        {"learning_rate": "adaptive"},
        {"shuffle": False},
        {"class_weight": "balanced"},
        {"random_state": np.random.RandomState(0)},
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            small(MLPClassifier, **options).to_config()
    config = load_config(f"{CONFIGS}/iris.yaml", ["train.optimizer=rmsprop"])
    with pytest.raises(ConfigError, match=r"train\.optimizer: .* no solver 'rmsprop'"):
        MLPClassifier.from_config(config)
    for setting in (
        "train.max_norm=2.0",
        "train.early_stopping.patience=1",
        "data.validation=20",
    ):
        given = ["train.early_stopping={patience: 5}", "data.validation=0.2", setting]
        config = load_config(f"{CONFIGS}/iris.yaml", given)
        with pytest.raises(ConfigError, match=setting.partition("=")[0]):
            MLPClassifier.from_config(config)


def test_a_config_has_the_rows_that_early_stopping_holds_out():
    clf = MLPClassifier(early_stopping=True, validation_fraction=0.3, random_state=np.int64(5))
    config = clf.to_config()
    assert (config.data.validation, config.seed) == (0.3, 5)
    assert clf.to_config({"name": "iris", "validation": 0.2}).data.validation == 0.2
    endless = clf.set_params(n_iter_no_change=np.inf).to_config()
    assert endless.train.early_stopping is None and endless.train.monitor == "accuracy"


# --- Searches and the like.


def test_searches_pipelines_and_ensembles():
    X, y = IRIS
    grid = GridSearchCV(small(MLPClassifier), {"alpha": [1e-4, 1e-2], "dropout": [0.0, 0.2]}, cv=2)
    assert grid.fit(X, y, sample_weight=np.ones(len(y))).best_params_.keys() == {"alpha", "dropout"}
    halving = HalvingRandomSearchCV(
        small(MLPClassifier), {"weight_decay": [0.0, 1e-3], "solver": ["adam", "adamw"]}, cv=2,
        random_state=0, resource="max_iter", max_resources=8, min_resources=2,
    ).fit(X, y)  # fmt: skip
    assert halving.best_estimator_.n_iter_ == 6  # 2, then three times that
    assert CalibratedClassifierCV(small(MLPClassifier), cv=2).fit(X, y).predict(X).shape == (150,)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(e=np.array(["u", "v", "w"])[y])
    columns = ColumnTransformer(
        [("n", StandardScaler(), list("abcd")), ("e", OneHotEncoder(), ["e"])]
    )
    pipeline = make_pipeline(columns, small(MLPClassifier, max_iter=100, learning_rate_init=0.02))
    assert pipeline.fit(frame, y).score(frame, y) > 0.95
    assert permutation_importance(pipeline, frame, y, n_repeats=2).importances_mean.argmax() == 4
    members = [(str(i), small(MLPClassifier, random_state=i)) for i in range(2)]
    assert VotingClassifier(members, voting="soft").fit(X, y).predict_proba(X).shape == (150, 3)
    sizes, *_ = learning_curve(small(MLPRegressor), *LINES, cv=2, train_sizes=[0.5, 1.0])
    assert sizes.tolist() == [50, 100]


def threads_for_a_large_model():
    model = Sequential([Linear(300, 300, rng=np.random.default_rng(0))])
    return automatic_threads(64 * model.params.size)


@pytest.mark.slow
def test_the_workers_of_a_search_share_the_cores():
    n_cores = len(os.sched_getaffinity(0))
    shared = Parallel(n_jobs=2)(delayed(threads_for_a_large_model)() for _ in range(2))
    assert max(shared) <= max(1, n_cores // 2)
    assert threads_for_a_large_model() <= n_cores


def test_callbacks_of_scikit_learn_are_told_of_each_epoch():
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    X, y = IRIS
    heard = Listener(stop_at=4)
    clf = small(MLPClassifier).set_callbacks(heard).fit(X, np.array(["x", "y", "z"])[y])
    assert clf.n_iter_ == 4 and len(heard.scores) == 4
    assert heard.events == ["setup", "begin fit", *["begin epoch", "end epoch"] * 4, "end fit",
                            "teardown"]  # fmt: skip
    assert heard.scores[-1] == clf.score(X, np.array(["x", "y", "z"])[y])
    assert len({tuple(W.ravel()) for W in heard.weights}) == 4  # each epoch's own


class Listener:
    """A callback that asks to stop after some epochs."""

    def __init__(self, stop_at):
        self.stop_at, self.events, self.scores, self.weights = stop_at, [], [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
            self.weights.append(fitted_estimator.coefs_[0])
        return len(self.scores) >= self.stop_at


@pytest.mark.slow
def test_accuracy_under_weight_decay_is_the_same_for_any_batch_size():
    """Measured over 5 seeds: 0.961, 0.965, 0.967, each +-0.006; alpha=10: 0.10, 0.87, 0.97."""
    X, y = load_digits(return_X_y=True)
    options = {"learning_rate_init": 0.003, "max_iter": 400, "random_state": 0}
    scores = {}
    for name, value in (("weight_decay", 0.007), ("alpha", 10.0)):
        for batch_size in (32, 200, 1437):
            clf = MLPClassifier(batch_size=batch_size, **{name: value}, **options)
            scores[name, batch_size] = clf.fit(X[:1437] / 16, y[:1437]).score(
                X[1437:] / 16, y[1437:]
            )
    by_decay = [score for (name, _), score in scores.items() if name == "weight_decay"]
    assert max(by_decay) - min(by_decay) < 0.025
    assert scores["alpha", 1437] - scores["alpha", 32] > 0.5
