from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_origin

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn import datasets as sklearn_datasets

from minidl.data.dataset import Dataset, fingerprint
from minidl.data.datasets import BUNDLED, DATASETS, DOWNLOADED, MADE, SETS, known_name, load_dataset
from minidl.data.downloads import fetch
from minidl.data.schema import Schema
from minidl.data.targets import Task
from minidl.errors import DataError

GENERATED = [name for name in MADE if name != "sparse_coded_signal"]


@pytest.fixture
def answer(monkeypatch):
    """Lets the test say what OpenML returns; holds the arguments of the call."""

    class Answer:
        found: dict[str, Any]
        asked: tuple

        def fetch(self, *asked):
            inspect.signature(fetch).bind(*asked)
            self.asked = asked
            return self.found

    answer = Answer()
    monkeypatch.setattr("minidl.data.downloads.fetch", answer.fetch)
    return answer


@pytest.mark.parametrize("name", [*BUNDLED, *MADE])
def test_the_arrays_are_as_the_class_says(name):
    data = load_dataset(name)
    n_samples, n_features = data.X.shape
    assert data.name == name
    assert data.X.dtype == np.float64
    assert data.X.flags.c_contiguous
    assert data.y.shape[0] == n_samples and data.y.ndim in (1, 2)
    assert data.n_features == n_features
    assert data.X_test is None
    assert data.y_test is None
    assert data.feature_names is None or len(data.feature_names) == n_features
    assert data.image_shape is None or np.prod(data.image_shape) == n_features
    if data.is_classification and data.y.ndim == 2:
        assert data.y.dtype == np.uint8 and data.y.shape[1] == data.n_classes and data.y.max() == 1
    elif data.is_classification:
        assert data.y.dtype == np.int64
        assert np.unique(data.y).tolist() == list(range(data.n_classes))
        assert {type(label) for label in data.classes} <= {int, str}
    else:
        assert data.y.dtype == np.float64
        assert data.n_classes is None


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_is_scikit_learns(name):
    data, bunch = load_dataset(name), getattr(sklearn_datasets, f"load_{name}")()
    assert np.array_equal(data.X, bunch.data)
    assert np.array_equal(data.y, bunch.target)
    if data.is_classification:
        assert data.classes == tuple(bunch.target_names)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_data_follows_its_seed_and_size(name):
    first, again, other = (load_dataset(name, n_samples=50, seed=seed) for seed in (3, 3, 4))
    assert first.X.tobytes() == again.X.tobytes()
    assert first.X.tobytes() != other.X.tobytes()
    assert len(first.y) == 50


def test_options_shape_what_is_generated():
    blobs = load_dataset("blobs", n_samples=40, n_features=7, n_classes=5, cluster_std=0.0)
    assert blobs.X.shape == (40, 7)
    assert len(np.unique(blobs.X, axis=0)) == blobs.n_classes == 5
    table = load_dataset("classification", n_features=6, n_informative=4, n_classes=3, flip_y=0.0)
    assert table.X.shape == (1000, 6)
    assert table.n_classes == 3
    pure, noisy = (load_dataset("classification", flip_y=share).y for share in (0.0, 0.5))
    assert (pure != noisy).mean() > 0.1
    circles = load_dataset("circles", noise=0.0, factor=0.25)
    assert np.unique(np.linalg.norm(circles.X, axis=1).round(9)).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("moons", {"n_samples": 1}),
        ("moons", {"noise": -0.1}),
        ("moons", {"noise": float("nan")}),
        ("moons", {"seed": -1}),
        ("moons", {"seed": 2**32}),
        ("circles", {"factor": 1.0}),
        ("circles", {"factor": -0.1}),
        ("blobs", {"n_classes": 1}),
        ("blobs", {"n_features": 0}),
        ("blobs", {"cluster_std": float("inf")}),
        ("classification", {"n_informative": 0}),
        ("gaussian_quantiles", {"cov": -1.0}),
        ("biclusters", {"n_clusters": 0}),
        ("blobs", {"n_samples": 10**12}),
        ("classification", {"flip_y": 1.1}),
        ("classification", {"class_sep": float("nan")}),
        ("openml", {"id": ""}),
        ("openml", {"id": "../secret"}),
        ("openml", {"id": ".."}),
        ("openml", {"id": "a/b"}),
    ],
)
def test_an_option_out_of_range_is_named(name, options):
    wrong = next(iter(options))
    with pytest.raises(ValueError, match=f"^{wrong} must be"):
        load_dataset(name, **options)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"^name must be one of mnist, file, .*, got 'mnits'"):
        load_dataset("mnits")
    with pytest.raises(TypeError, match="n_sample"):
        load_dataset("moons", n_sample=3)


@pytest.mark.parametrize("name", DATASETS)
def test_every_option_is_a_keyword_with_a_type(name):
    signature = inspect.signature(DATASETS[name], eval_str=True)
    for option in signature.parameters.values():
        assert option.kind is option.KEYWORD_ONLY
        known = (int, float, bool, str, str | None, Task, Sequence[str], Mapping[str, str] | None)
        assert option.annotation in known or get_origin(option.annotation) is Literal
    required = [p.name for p in signature.parameters.values() if p.default is p.empty]
    assert required == {"openml": ["id"], "csv": ["path"], "file": ["path"]}.get(name, [])


def test_openml_classes_are_numbered_in_the_order_of_their_labels(answer):
    answer.found = {
        "data": np.array([[1.0, 2], [3, 4], [5, 6]]),
        "target": np.array(["no", "yes", "maybe"], object),
        "feature_names": ["height", "width"],
        "target_names": ["rain"],
    }
    data = load_dataset("openml", id="weather", target="rain")
    options = {"name": "weather", "target_column": "rain", "as_frame": False, "parser": "liac-arff"}
    assert answer.asked == ("openml weather", "openml", options)
    assert data.X.dtype == np.float64
    assert data.X.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert data.y.tolist() == [1, 2, 0]
    assert data.y.dtype == np.int64
    assert data.classes == ("maybe", "no", "yes")
    assert data.feature_names == ("height", "width")


def test_openml_may_be_sparse_and_a_regression(answer):
    X = csr_matrix(np.array([[0, 2.5], [3, 0]]))
    answer.found = {"data": X, "target": np.array([0.5, 1.5]), "feature_names": ["a", "b"]}
    data = load_dataset("openml", id="7")
    assert isinstance(data.X, csr_matrix)
    assert (data.X != X).nnz == 0
    assert data.y.tolist() == [0.5, 1.5]
    assert not data.is_classification


def test_openml_with_several_class_targets_asks_for_one(answer):
    target = np.array([["yes", "no"]])
    answer.found = {"data": np.eye(1), "target": target, "feature_names": ["a"]}
    with pytest.raises(DataError, match=r"^openml:7: has several class targets; name one"):
        load_dataset("openml", id="7")


def test_california_is_a_regression(answer):
    X, y = np.arange(16.0).reshape(2, 8), np.array([0.5, 4.526])
    answer.found = {"data": X, "target": y, "feature_names": ["a", "b"] * 4}
    data = load_dataset("california")
    assert answer.asked == ("scikit california_housing", "california_housing", {})
    assert data.name == "california" and np.array_equal(data.X, X) and np.array_equal(data.y, y)
    assert not data.is_classification
    assert data.feature_names == ("a", "b") * 4


def test_covtype_keeps_the_labels_of_its_source_and_is_half_as_large(answer):
    X = np.random.default_rng(0).integers(-173, 7174, (3, 54)).astype(np.float64)
    answer.found = {"data": X, "target": np.array([1, 7, 2], np.int32)}
    data = load_dataset("covtype")
    assert data.X.dtype == np.float32 and np.array_equal(data.X, X)
    assert data.y.tolist() == [0, 2, 1] and data.y.dtype == np.int64
    assert data.classes == (1, 2, 7)


def test_every_data_set_of_scikit_learn_has_its_name():
    for function in dir(sklearn_datasets):
        prefix, _, name = function.partition("_")
        elsewhere = ("file", "openml", "20newsgroups", "files", "svmlight_file", "svmlight_files")
        no_targets = ("low_rank_matrix", "spd_matrix", "sparse_spd_matrix")
        elsewhere += (*no_targets, "sample_image", "sample_images")
        if prefix in ("load", "make", "fetch") and name not in elsewhere:
            assert known_name(function) in SETS, function
            theirs = set(inspect.signature(getattr(sklearn_datasets, function)).parameters)
            ours = {**BUNDLED, **MADE, **DOWNLOADED}.get(name, {}).keys()
            if name in ("biclusters", "checkerboard"):
                theirs |= {"n_samples", "n_features"}
            assert ours - {"n_classes" if name == "blobs" else ""} <= theirs
    assert load_dataset("load_iris").name == "iris"
    with pytest.raises(ValueError, match=r"^n_informative does not fit: n_classes"):
        load_dataset("classification", n_informative=2, n_classes=3)


def test_made_sets_are_scikit_learns():
    data = load_dataset("friedman1", n_samples=30, noise=0.5, seed=3)
    X, y = sklearn_datasets.make_friedman1(30, noise=0.5, random_state=3)
    assert np.array_equal(data.X, X) and np.array_equal(data.y, y)
    assert load_dataset("hastie_10_2", n_samples=50).classes == (-1, 1)
    assert load_dataset("linnerud").y.shape == (20, 3)
    sparse = load_dataset("multilabel_classification", sparse=True)
    assert isinstance(sparse.X, csr_matrix) and sparse.y.shape == (1000, 5)
    code = load_dataset("sparse_coded_signal", n_samples=40)
    assert code.X.shape == (40, 20) and code.y.shape == (40, 15)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_that_fails_says_in_one_line_what_to_do(name, monkeypatch):
    def fetch(what, function, options):
        raise DataError(f"{what}: no answer within 15 s")

    monkeypatch.setattr("minidl.data.downloads.fetch", fetch)
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert message.startswith(f"scikit {name}: no answer within 15 s; ")
    assert "SCIKIT_LEARN_DATA" in message and "\n" not in message


def test_the_fingerprint_changes_with_every_array_and_what_its_numbers_mean():
    data = Dataset("a", np.arange(12.0).reshape(3, 4), np.arange(3))
    changed = [
        data,
        replace(data, X=np.arange(12.0).reshape(4, 3)),
        replace(data, X=data.X.astype(np.float32)),
        replace(data, X=-data.X),
        replace(data, X=np.zeros((3, 4), np.float64)),
        replace(data, X=np.zeros((3, 4), np.int64)),
        replace(data, y=np.array([0, 2, 1])),
        replace(data, X_test=data.X, y_test=data.y),
        replace(data, X_test=data.X),
        replace(data, X=csr_matrix(data.X)),
        replace(data, X=csr_matrix(data.X[:, ::-1])),
        replace(data, X=csr_matrix((3, 5))),
        replace(data, X=csr_matrix((3, 6))),
    ]
    renamed = [
        replace(data, classes=("a", "b", "c")),
        replace(data, classes=("a", "c", "b")),
        replace(data, classes=(0, 1, 2)),
        replace(data, classes=("0", "1", "2")),
        replace(data, schema=Schema.plain("abcd", ((), ("x",), (), ()))),
        replace(data, schema=Schema.plain("abcd", ((), (), ("x",), ()))),
        replace(data, feature_names=("a", "b", "c", "d")),
        replace(data, feature_names=("a", "b", "c", "\ud800")),
    ]
    prints = [fingerprint(each) for each in changed]
    assert len(set(prints + [fingerprint(each) for each in renamed])) == len(changed + renamed)
    assert len({each.split(".")[0] for each in prints}) == len(changed)
    assert {fingerprint(each).split(".")[0] for each in renamed} == {prints[0].split(".")[0]}
    assert fingerprint(replace(data, name="b")) == prints[0]
    strided = replace(data, X=np.asfortranarray(data.X))
    assert fingerprint(strided) == prints[0]


def test_mnist_from_a_file_needs_numpy_only(tmp_path):
    x, y = np.zeros((10, 28, 28), np.uint8), np.arange(10)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    program = """
import sys, numpy
from minidl.data.dataset import fingerprint
from minidl.data.datasets import load_dataset
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.splits import split
data = load_dataset("mnist", path=sys.argv[1])
train, _, _ = split(data, validation=0, test=0, rng=numpy.random.default_rng(0))
PREPROCESSINGS["global_standard"]().fit(train.X).transform(train.X)
fingerprint(data)
print(*{"sklearn", "scipy", "pandas", "yaml", "pydantic", "tqdm"} & set(sys.modules))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "mnist.npz")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
