from __future__ import annotations

import json
import socket

import joblib
import numpy as np
import pytest
from scipy.sparse import csc_matrix
from sklearn.utils import Bunch

from minidl.archive import read_arrays
from minidl.data import downloads
from minidl.data.datasets import load_dataset
from minidl.errors import DataError


@pytest.fixture
def bunch(monkeypatch):
    """What scikit-learn's fetch_openml returns; holds the arguments of the call."""
    bunch = Bunch(
        data=np.array([[1.0, np.nan], [0.5, 3.0]]),
        target=np.array(["yes", "no"], dtype=object),
        feature_names=["height", "width"],
    )

    def fetch_openml(**asked):
        bunch.asked = asked
        return bunch

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    return bunch


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Does in this process what the child does, and reads what it wrote."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr(downloads, "_exit_when_silent", lambda folder, silence: None)

    def fetch(what, function, options):
        downloads._main(str(tmp_path / "arrays.npz"), "15", function, json.dumps(options))
        return read_arrays(tmp_path / "arrays.npz")

    def run(function="openml", id="weather", target=None):
        if function == "openml":
            return downloads.openml(id, target)
        return fetch("", function, {})

    monkeypatch.setattr(downloads, "fetch", fetch)
    return run


def test_a_table_of_numbers_and_classes(bunch, download):
    arrays = download()
    assert np.array_equal(arrays["X"], bunch.data, equal_nan=True)
    assert arrays["y"].tolist() == ["yes", "no"]
    assert arrays["feature_names"].tolist() == ["height", "width"]


def test_pandas_is_not_needed_and_names_and_numbers_are_told_apart(bunch, download):
    download("openml", "weather")
    assert bunch.asked["name"] == "weather"
    assert bunch.asked["target_column"] == "default-target"
    assert bunch.asked["as_frame"] is False
    assert bunch.asked["parser"] == "liac-arff"
    download("openml", "61", "rain")
    assert bunch.asked["data_id"] == 61
    assert bunch.asked["target_column"] == "rain"
    assert "name" not in bunch.asked


def test_bytes_travel_as_bytes(bunch, download):
    bunch.data = np.array([[0.0, 255.0], [7.0, 8.0]])
    assert download()["X"].dtype == np.uint8
    assert np.array_equal(download()["X"], bunch.data)
    bunch.data = np.array([[0.0, 256.0], [-1.0, 8.0]])
    assert np.array_equal(download()["X"], bunch.data)


def test_a_sparse_table_travels_in_parts(bunch, download):
    bunch.data = csc_matrix(np.array([[0.0, 2.5], [3.0, 0.0]]))
    bunch.target = np.array([0.5, 1.5])
    arrays = download()
    assert arrays["X_data"].tolist() == [2.5, 3.0]
    assert arrays["X_indices"].tolist() == [1, 0]
    assert arrays["X_indptr"].tolist() == [0, 1, 2]
    assert arrays["X_shape"].tolist() == [2, 2]
    assert arrays["y"].tolist() == [0.5, 1.5]


def test_a_set_without_a_target_asks_for_one(bunch, download):
    bunch.target = None
    with pytest.raises(SystemExit, match="name a column with `target`"):
        download()


def test_california_from_the_cache_of_scikit_learn(download, tmp_path):
    # value, income, age, rooms, bedrooms, people, households, latitude, longitude
    row = [452_600.0, 8.25, 41.0, 880.0, 129.0, 320.0, 128.0, 37.875, -122.25]
    joblib.dump(np.array([row, row]), tmp_path / "cal_housing_py3.pkz")
    arrays = download("california_housing")
    assert arrays["X"].dtype == arrays["y"].dtype == np.float64
    assert arrays["X"][1].tolist() == [8.25, 41, 6.875, 1.0078125, 320, 2.5, 37.875, -122.25]
    assert arrays["y"].tolist() == [4.526, 4.526]
    assert arrays["feature_names"].tolist()[:2] == ["MedInc", "HouseAge"]


def test_covtype_from_the_cache_of_scikit_learn(download, tmp_path):
    X = np.random.default_rng(0).integers(-173, 7174, (5, 54)).astype(np.float64)
    (tmp_path / "covertype").mkdir()
    joblib.dump(X, tmp_path / "covertype/samples_py3")
    joblib.dump(np.array([5, 1, 7, 2, 2], np.int32), tmp_path / "covertype/targets_py3")
    arrays = download("covtype")
    assert arrays["X"].dtype == np.float32 and np.array_equal(arrays["X"], X)
    assert arrays["y"].tolist() == [5, 1, 7, 2, 2]
    assert len(arrays["feature_names"]) == 54


@pytest.mark.parametrize("name", ["fetch_california_housing", "fetch_covtype"])
def test_a_failed_download_is_tried_again_once_and_soon(name, download, monkeypatch):
    def fetch(**asked):
        raise OSError(f"asked with {sorted(asked.items())}\nand failed")

    monkeypatch.setattr(f"sklearn.datasets.{name}", fetch)
    source = name.removeprefix("fetch_")
    with pytest.raises(SystemExit) as caught:
        download(source)
    assert caught.value.code == "asked with [('delay', 0.5), ('n_retries', 2)] and failed"


@pytest.mark.parametrize(
    ("name", "bunch", "shape"),
    [
        ("rcv1", {"data": csc_matrix(np.eye(3)), "target": csc_matrix(np.eye(3)[:, :2])}, None),
        (
            "olivetti_faces",
            {"data": np.zeros((3, 12), np.float32), "target": np.array([0, 1, 1]),
             "images": np.zeros((3, 4, 3))},
            (4, 3, 1),
        ),
        (
            "lfw_people",
            {"data": np.zeros((3, 12)), "target": np.array([0, 1, 1]),
             "images": np.zeros((3, 2, 2, 3)), "target_names": np.array(["Ann", "Bo"])},
            (2, 2, 3),
        ),
        (
            "kddcup99",
            {"data": np.array([[0, b"tcp", 1.5], [1, b"udp", 2.5]], object),
             "target": np.array([b"normal.", b"smurf."], object),
             "feature_names": ["duration", "protocol", "rate"]},
            None,
        ),
    ],
)  # fmt: skip
def test_sets_of_all_shapes_travel(name, bunch, shape, download, monkeypatch):
    monkeypatch.setattr(f"sklearn.datasets.fetch_{name}", lambda **asked: Bunch(**bunch))
    arrays = download(name)
    monkeypatch.setattr(downloads, "fetch", lambda *asked: arrays)
    data = load_dataset(name)
    assert data.image_shape == shape and data.n_classes == 2
    if name == "kddcup99":
        assert data.X.tolist() == [[0, 0, 1.5], [1, 1, 2.5]]
        assert data.categories == ((), ("tcp", "udp"), ()) and data.classes[0] == "normal."
    if name == "lfw_people":
        assert data.classes == ("Ann", "Bo")


def test_places_of_species(download, monkeypatch):
    points = np.array([(b"bear", 1.0, 2.0), (b"ape", 3.0, 4.0)],
                      [("species", "S9"), ("dd long", "f4"), ("dd lat", "f4")])  # fmt: skip
    bunch = Bunch(train=points[:1], test=points[1:])
    monkeypatch.setattr("sklearn.datasets.fetch_species_distributions", lambda **asked: bunch)
    arrays = download("species_distributions")
    assert arrays["X"].tolist() == [[1, 2], [3, 4]] and arrays["y"].tolist() == ["bear", "ape"]


def test_the_watch_looks_where_the_bytes_arrive(monkeypatch, tmp_path):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    watched = []
    monkeypatch.setattr(downloads, "_exit_when_silent", lambda *what: watched.append(what))
    monkeypatch.setattr(downloads, "_fetched", lambda function, options: {})
    downloads._main(str(tmp_path / "arrays.npz"), "15", "openml", "{}")
    assert watched == [(tmp_path, 15.0)]


@pytest.fixture
def clock(monkeypatch):
    """A clock of the watch: each of its pauses takes 0.2 s, in which `pass_by` happens."""

    class Ended(BaseException):
        pass

    class Clock:
        now, busy = 0.0, 0.0

        def pass_by(self):
            raise NotImplementedError

        def sleep(self, seconds):
            self.now += seconds
            self.pass_by()

        def monotonic(self):
            return self.now

        def process_time(self):
            return self.busy

        def thread_time(self):
            return 0.0

        def watch(self, folder):
            with pytest.raises(Ended):
                downloads._exit_when_silent(folder, 15.0)
            return self.now

    def end(status):
        raise Ended

    clock = Clock()
    monkeypatch.setattr(downloads, "time", clock)
    monkeypatch.setattr("os._exit", end)
    return clock


def test_failed_attempts_share_one_deadline(clock, tmp_path, capsys):
    def attempts():
        clock.busy += 0.005

    clock.pass_by = attempts
    assert clock.watch(tmp_path) == pytest.approx(15, abs=0.5)
    assert capsys.readouterr().err == "no answer within 15 s\n"


def test_a_slow_download_is_not_cut_off(clock, tmp_path):
    def trickle():
        if clock.now < 100 and clock.now % 10 < 0.2:
            with open(tmp_path / "part", "ab") as stream:
                stream.write(b"x")

    clock.pass_by = trickle
    assert clock.watch(tmp_path) > 100


def test_parsing_is_not_cut_off(clock, tmp_path):
    def parse():
        clock.busy += 0.1 if clock.now < 60 else 0

    clock.pass_by = parse
    assert clock.watch(tmp_path) > 60


@pytest.mark.parametrize("function", ["openml", "rcv1"])
def test_a_connection_that_says_nothing_ends_in_one_line(tmp_path, monkeypatch, function):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    options = {"name": "weather", "as_frame": False} if function == "openml" else {}
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(DataError) as caught:
            downloads.fetch("what was asked", function, options, silence=0.1)
    assert str(caught.value) == "what was asked: no answer within 0.1 s"
