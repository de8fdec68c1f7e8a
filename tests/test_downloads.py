from __future__ import annotations

import os
import socket
import warnings
from tempfile import gettempdir

import joblib
import numpy as np
import pytest
from scipy.sparse import csc_matrix
from sklearn.utils import Bunch

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache of scikit-learn."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))


def weather(**options):
    return load_dataset("openml", id="weather", **options)


def test_a_table_of_numbers_and_classes(bunch):
    data = weather()
    assert np.array_equal(data.X, bunch.data, equal_nan=True)
    assert data.classes == ("no", "yes") and data.y.tolist() == [1, 0]
    assert data.feature_names == ("height", "width")


def test_pandas_is_not_needed_and_names_and_numbers_are_told_apart(bunch, tmp_path):
    weather()
    assert bunch.asked["name"] == "weather"
    assert bunch.asked["target_column"] == "default-target"
    assert bunch.asked["as_frame"] is False
    assert bunch.asked["parser"] == "liac-arff"
    assert bunch.asked["data_home"] == str(tmp_path)
    load_dataset("openml", id="61", target="rain")
    assert bunch.asked["data_id"] == 61
    assert bunch.asked["target_column"] == "rain"
    assert "name" not in bunch.asked


def test_a_sparse_table_is_one_of_rows(bunch):
    bunch.data = csc_matrix(np.array([[0.0, 2.5], [3.0, 0.0]]))
    bunch.target = np.array([0.5, 1.5])
    data = weather()
    assert data.X.data.tolist() == [2.5, 3.0]
    assert data.X.indices.tolist() == [1, 0]
    assert data.X.indptr.tolist() == [0, 1, 2]
    assert data.X.shape == (2, 2)
    assert data.y.tolist() == [0.5, 1.5]


@pytest.mark.parametrize("target", [None, np.empty((2, 0))])
def test_a_set_without_a_target_asks_for_one(bunch, target):
    bunch.target = target
    with pytest.raises(DataError, match=r"^openml weather: .* name a column with `target`"):
        weather()


def test_california_from_the_cache_of_scikit_learn(tmp_path):
    # value, income, age, rooms, bedrooms, people, households, latitude, longitude
    row = [452_600.0, 8.25, 41.0, 880.0, 129.0, 320.0, 128.0, 37.875, -122.25]
    joblib.dump(np.array([row, row]), tmp_path / "cal_housing_py3.pkz")
    data = load_dataset("california")
    assert data.X.dtype == data.y.dtype == np.float64
    assert data.X[1].tolist() == [8.25, 41, 6.875, 1.0078125, 320, 2.5, 37.875, -122.25]
    assert data.y.tolist() == [4.526, 4.526]
    assert data.feature_names[:2] == ("MedInc", "HouseAge")


def test_covtype_from_the_cache_of_scikit_learn(tmp_path):
    X = np.random.default_rng(0).integers(-173, 7174, (5, 54)).astype(np.float64)
    (tmp_path / "covertype").mkdir()
    joblib.dump(X, tmp_path / "covertype/samples_py3")
    joblib.dump(np.array([5, 1, 7, 2, 2], np.int32), tmp_path / "covertype/targets_py3")
    data = load_dataset("covtype")
    assert data.X.dtype == np.float32 and np.array_equal(data.X, X)
    assert data.classes == (1, 2, 5, 7) and data.y.tolist() == [2, 0, 3, 1, 1]
    assert len(data.feature_names) == 54


@pytest.mark.parametrize("name", ["california", "covtype"])
def test_a_failed_download_is_tried_again_once_and_soon(name, monkeypatch):
    def fetch(data_home, **asked):
        raise OSError(f"asked with {sorted(asked.items())}\nand failed")

    function = {"california": "california_housing"}.get(name, name)
    monkeypatch.setattr(f"sklearn.datasets.fetch_{function}", fetch)
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    said = "asked with [('delay', 0.5), ('n_retries', 2)] and failed"
    assert str(caught.value).startswith(f"scikit {function}: {said}; ")


def test_what_scikit_learn_says_stays_out_of_results(bunch, monkeypatch, capsys):
    def fetch_openml(**asked):
        print("downloading ...")
        warnings.warn("A network error occurred. Retrying...", stacklevel=1)
        return bunch

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    assert weather().n_classes == 2
    assert capsys.readouterr() == ("", "downloading ...\n")


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
def test_sets_of_all_shapes(name, bunch, shape, monkeypatch):
    monkeypatch.setattr(f"sklearn.datasets.fetch_{name}", lambda **asked: Bunch(**bunch))
    data = load_dataset(name)
    assert data.image_shape == shape and data.n_classes == 2
    if name == "kddcup99":
        assert data.X.tolist() == [[0, 0, 1.5], [1, 1, 2.5]]
        assert data.categories == ((), ("tcp", "udp"), ()) and data.classes[0] == "normal."
    if name == "lfw_people":
        assert data.classes == ("Ann", "Bo")


def test_places_of_species(monkeypatch):
    points = np.array([(b"bear", 1.0, 2.0), (b"ape", 3.0, 4.0)],
                      [("species", "S9"), ("dd long", "f4"), ("dd lat", "f4")])  # fmt: skip
    bunch = Bunch(train=points[:1], test=points[1:])
    monkeypatch.setattr("sklearn.datasets.fetch_species_distributions", lambda **asked: bunch)
    data = load_dataset("species_distributions")
    assert data.X.tolist() == [[1, 2], [3, 4]] and data.feature_names == ("longitude", "latitude")
    assert data.classes == ("ape", "bear") and data.y.tolist() == [1, 0]


def test_without_a_home_the_cache_is_a_temporary_folder(bunch, monkeypatch):
    monkeypatch.delenv("SCIKIT_LEARN_DATA")
    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))
    weather()
    assert bunch.asked["data_home"] == os.path.join(gettempdir(), "scikit_learn_data")


@pytest.fixture
def clock(monkeypatch):
    """A clock of the watch, and a thread that never ends: each time that it is waited for takes
    0.2 s, in which `pass_by` happens."""

    class Clock:
        now, busy = 0.0, 0.0

        def pass_by(self):
            raise NotImplementedError

        def is_alive(self):
            return True

        def join(self, seconds):
            self.now += seconds
            self.pass_by()

        def monotonic(self):
            return self.now

        def process_time(self):
            return self.busy

        def thread_time(self):
            return 0.0

        def watch(self, folder):
            assert not downloads._ends(self, folder, 15.0)
            return self.now

    clock = Clock()
    monkeypatch.setattr(downloads, "time", clock)
    return clock


def test_failed_attempts_share_one_deadline(clock, tmp_path):
    def attempts():
        clock.busy += 0.005

    clock.pass_by = attempts
    assert clock.watch(tmp_path) == pytest.approx(15, abs=0.5)


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
def test_a_connection_that_says_nothing_ends_in_one_line(monkeypatch, function):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    options = {"name": "weather", "as_frame": False} if function == "openml" else {}
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(DataError) as caught:
            downloads.fetch("what was asked", function, options, silence=0.1)
    assert str(caught.value) == "what was asked: no answer within 0.1 s"
