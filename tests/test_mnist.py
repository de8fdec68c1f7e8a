from __future__ import annotations

import os

import numpy as np
import pytest

from minidl.data.datasets import load_dataset
from minidl.errors import DataError


def arrays(n_train: int = 6, n_test: int = 2, **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n_train)
    return {
        "x_train": rng.integers(0, 256, (n_train, 28, 28), dtype=np.uint8),
        "y_train": rng.integers(0, 10, n_train, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (n_test, 28, 28), dtype=np.uint8),
        "y_test": rng.integers(0, 10, n_test, dtype=np.uint8),
    } | changes


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders that stand for $MINIDL_DATA_DIR and the cache; OpenML does not answer."""

    def openml(id):
        raise DataError(f"openml {id}: no answer within 15 s")

    data, cache = tmp_path / "data", tmp_path / "xdg" / "minidl"
    data.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("MINIDL_DATA_DIR", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("minidl.data.downloads.openml", openml)
    return data / "mnist.npz", cache / "mnist.npz"


def test_it_is_looked_for_in_the_documented_order(places, tmp_path):
    given = tmp_path / "given.npz"
    for n_train, file in enumerate([places[1], places[0], given], start=1):
        np.savez(file, **arrays(n_train))
        path = str(given) if file is given else None
        assert len(load_dataset("mnist", path=path).y) == n_train


def test_the_cache_folder_is_in_the_home_without_xdg(places, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "minidl").mkdir(parents=True)
    np.savez(tmp_path / ".cache" / "minidl" / "mnist.npz", **arrays())
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert len(load_dataset("mnist").y) == 6


def test_images_become_rows_of_bytes(places):
    content = arrays()
    np.savez_compressed(places[0], **content)
    data = load_dataset("mnist")
    assert data.X.dtype == data.X_test.dtype == np.uint8
    assert np.array_equal(data.X, content["x_train"].reshape(6, 784))
    assert np.array_equal(data.X_test, content["x_test"].reshape(2, 784))
    assert data.y.dtype == data.y_test.dtype == np.int64
    assert np.array_equal(data.y, content["y_train"])
    assert data.classes == tuple(range(10))
    assert data.image_shape == (28, 28, 1)


def test_what_was_tried_and_what_to_do_is_said_in_one_line(places, monkeypatch):
    with pytest.raises(DataError) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    for part in (*map(str, places), "openml mnist_784: no answer within 15 s", "set data.path"):
        assert part in message
    assert "\n" not in message
    monkeypatch.delenv("MINIDL_DATA_DIR")
    with pytest.raises(DataError, match=r"MINIDL_DATA_DIR \(not set\)"):
        load_dataset("mnist")


def test_a_path_that_leads_nowhere_is_not_passed_over(places, tmp_path):
    np.savez(places[0], **arrays())
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file; set data\.path"):
        load_dataset("mnist", path=str(tmp_path / "nowhere.npz"))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((6, 28, 28))}, "x_train must hold"),
        ({"x_test": np.zeros((2, 28, 27), np.uint8)}, "x_test must hold"),
        ({"x_train": np.zeros((0, 784), np.uint8)}, "x_train must hold"),
        ({"x_train": np.uint8(3)}, "x_train must hold"),
        ({"y_train": np.zeros(5, np.uint8)}, "y_train must hold 6 integers from 0 to 9"),
        ({"y_test": np.array([0, 10])}, "y_test must hold 2 integers from 0 to 9"),
        ({"y_test": np.array([0, -1])}, "y_test must hold 2 integers from 0 to 9"),
        ({"y_test": np.zeros(2)}, "y_test must hold 2 integers from 0 to 9"),
        ({"y_test": None}, "y_test"),
        (b"", "mnist.npz"),
        (b"PK\3\4 but nothing more", "mnist.npz"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(places, place, change, message):
    if isinstance(change, bytes):
        places[place].write_bytes(change)
    else:
        content = {name: array for name, array in arrays(**change).items() if array is not None}
        np.savez(places[place], **content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("mnist")
    assert str(places[place]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_the_file_is_named(places):
    places[0].mkdir()
    with pytest.raises(DataError, match=r"mnist\.npz"):
        load_dataset("mnist")


@pytest.fixture
def table(places, monkeypatch):
    """OpenML answers with seven rows, five of them for training."""
    content = arrays(7)
    x, y = content["x_train"].reshape(7, 784), content["y_train"]
    asked = []

    def openml(id):
        asked.append(id)
        return {"data": x.astype(np.float64), "target": y.astype(str).astype(object)}

    monkeypatch.setattr("minidl.data.mnist.N_TRAIN", 5)
    monkeypatch.setattr("minidl.data.downloads.openml", openml)
    return x, y, asked


def test_what_openml_answers_is_kept_in_the_cache(places, table):
    places[1].parent.rmdir()
    x, y, asked = table
    for _ in range(2):
        data = load_dataset("mnist")
        assert np.array_equal(np.concatenate([data.X, data.X_test]), x)
        assert np.array_equal(np.concatenate([data.y, data.y_test]), y)
        assert (len(data.X), len(data.X_test)) == (5, 2)
    assert asked == ["mnist_784"]
    assert np.load(places[1])["x_train"].dtype == np.uint8
    assert os.listdir(places[1].parent) == ["mnist.npz"]


def test_a_cache_that_cannot_be_written_is_no_failure(places, table):
    places[1].parent.rmdir()
    places[1].parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="mnist is not kept for the next time"):
        assert len(load_dataset("mnist").y) == 5


def test_an_answer_that_is_not_mnist_is_refused(places, monkeypatch):
    monkeypatch.setattr("minidl.data.mnist.N_TRAIN", 5)
    for X in (np.eye(784) / 2, np.full((9, 784), np.nan), np.zeros((9, 3)), np.zeros((5, 784))):
        answer = {"data": X, "target": np.array(["1"] * len(X))}
        monkeypatch.setattr("minidl.data.downloads.openml", lambda id, answer=answer: answer)
        with pytest.raises(DataError, match="unexpected contents"):
            load_dataset("mnist")
    assert not places[1].exists()


@pytest.mark.mnist
@pytest.mark.skipif(not os.environ.get("MINIDL_DATA_DIR"), reason="MINIDL_DATA_DIR is not set")
def test_the_real_mnist():
    data = load_dataset("mnist")
    assert data.X.shape == (60_000, 784)
    assert data.X_test.shape == (10_000, 784)
    assert np.bincount(data.y).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert data.X.mean() == pytest.approx(33.318421)
    assert data.y[:5].tolist() == [5, 0, 4, 1, 9]


def test_an_unreadable_folder_and_no_home_are_said_or_passed_over(places, tmp_path, monkeypatch):
    np.savez(places[1], **arrays())
    denied = PermissionError(13, "Permission denied")

    def opened(path, *args, **kwargs):
        if str(path) == str(places[0]):
            raise denied
        return open(path, *args, **kwargs)

    monkeypatch.setattr("minidl.data.formats.open", opened, raising=False)
    assert len(load_dataset("mnist").y) == 6
    with pytest.raises(DataError, match=r"mnist\.npz: Permission denied; set data\.path"):
        load_dataset("mnist", path=str(places[0]))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))  # as without a home
    with pytest.raises(DataError, match=r"mnist\.npz \(Permission denied\), openml mnist_784"):
        load_dataset("mnist")
    monkeypatch.delenv("MINIDL_DATA_DIR")
    with pytest.raises(DataError, match=r"tried \$MINIDL_DATA_DIR \(not set\), openml"):
        load_dataset("mnist")
