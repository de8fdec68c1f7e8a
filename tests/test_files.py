"""Arrays, images and sparse rows in files become data sets; a bad file ends in one line."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file

from minidl.config import load_config
from minidl.data.datasets import load_dataset
from minidl.errors import DataError
from minidl.runs.experiment import Experiment


def idx(array):
    kind = {"u1": 8, "i4": 12, "f4": 13}[array.dtype.str[1:]]
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte",
         "emnist-letters-test-images-idx3-ubyte", "emnist-letters-test-labels-idx1-ubyte"),
        ("images.idx3-ubyte", "labels.idx1-ubyte"),
    ],
)  # fmt: skip
def test_images_find_their_labels_and_test_part(tmp_path, names, zipped):
    rng = np.random.default_rng(0)
    parts = [
        rng.integers(0, 256, (n, 5, 4), dtype=np.uint8) if j % 2 == 0 else np.arange(n, dtype="u1")
        for j, n in enumerate([26, 26, 9, 9][: len(names)])
    ]
    for name, part in zip(names, parts, strict=True):
        data = idx(part)
        path = tmp_path / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(data) if zipped else data)
    data = load_dataset("file", path=str(tmp_path / (names[0] + ".gz" * zipped)))
    assert data.image_shape == (5, 4, 1) and data.X.dtype == np.uint8
    assert np.array_equal(data.X, parts[0].reshape(26, 20)) and data.classes == tuple(range(26))
    assert data.y.tolist() == list(range(26)) and data.y.dtype == np.int64
    if len(names) == 4:
        assert np.array_equal(data.X_test, parts[2].reshape(9, 20))
        assert data.y_test.tolist() == list(range(9))


def test_the_recipe_for_images_trains(tmp_path):
    for part in ("train", "t10k"):
        images = np.zeros((6000, 3, 3), np.uint8)
        labels = (np.arange(6000) % 10).astype(np.uint8)
        images[:, 0, 0] = labels
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    config = load_config(
        Path(__file__).parents[1] / "configs" / "fashion_mnist.yaml",
        [f"data.path={tmp_path / 'train-images-idx3-ubyte'}"],
    )
    experiment = Experiment(config)
    assert len(experiment.train.y) == 1000 and len(experiment.test.y) == 6000
    next(experiment.training().steps())
    assert np.isfinite(experiment.model.params).all()


def test_a_bad_idx_file_ends_in_one_line(tmp_path):
    good, path = idx(np.zeros((3, 2, 2), np.uint8)), tmp_path / "a-images"
    (tmp_path / "a-labels").write_bytes(idx(np.arange(3, dtype=np.uint8)))
    path.write_bytes(good)
    assert load_dataset("file", path=str(path)).n_classes == 3
    huge = b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3)
    for wrong, reason in [
        (good[:-1], r"claims \(3, 2, 2\) values and holds 11 bytes"),
        (good + b"x", "holds 13 bytes"),
        (good[:7], "cannot be read"),
        (huge, "more than there is memory"),
        (gzip.compress(good)[:-9], "cannot be read"),
        (idx(np.zeros((2, 2, 2), np.uint8)), "must be rows of numbers"),
    ]:
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=reason):
            load_dataset("file", path=str(path))
    (tmp_path / "a-labels").unlink()
    path.write_bytes(good)
    with pytest.raises(DataError, match="a-labels: no such file"):
        load_dataset("file", path=str(path))
    path.rename(tmp_path / "x")
    with pytest.raises(DataError, match="with 'images' in its name"):
        load_dataset("file", path=str(tmp_path / "x"))


def test_arrays_by_their_names(tmp_path):
    path = str(tmp_path / "a.npz")
    X, y = np.arange(60.0).reshape(20, 3), np.arange(20) % 2
    images = np.zeros((20, 2, 2, 3), np.uint8)
    np.savez(path, X=X, y=y, images=images, names=y.astype(str), real=X[:, 0] / 7, both=X[:, :2])
    data = load_dataset("file", path=path)
    assert np.array_equal(data.X, X) and data.classes == (0, 1) and data.path == path
    data = load_dataset("file", path=path, features="images", target="names")
    assert data.image_shape == (2, 2, 3) and data.classes == ("0", "1")
    assert load_dataset("file", path=path, features="X", target="real").classes is None
    assert load_dataset("file", path=path, features="X", target="both").y.shape == (20, 2)
    with pytest.raises(DataError, match="has no array 'z'; it has X, y, images"):
        load_dataset("file", path=path, features="X", target="z")
    with pytest.raises(DataError, match="must be rows of numbers"):
        load_dataset("file", path=path, features="names", target="y")
    np.savez(path, X=X, y=3)
    with pytest.raises(DataError, match=r"rows of numbers, got \(20, 3\) float64 and \(\)$"):
        load_dataset("file", path=path)
    np.savez(path, a=X, b=y)
    with pytest.raises(ValueError, match=r"^features and target must name arrays of .*: a, b$"):
        load_dataset("file", path=path)
    np.savez(path, x_train=X, y_train=y, x_test=X[:3], y_test=y[:3])
    assert len(load_dataset("file", path=path).y_test) == 3
    np.save(tmp_path / "a.npy", np.c_[X, y])
    data = load_dataset("file", path=str(tmp_path / "a.npy"))
    assert np.array_equal(data.X, X) and data.classes == (0, 1)
    first = load_dataset("file", path=str(tmp_path / "a.npy"), target="0")
    assert first.classes is None or first.X.shape == (20, 3)
    np.save(tmp_path / "o.npy", np.array([[1, "a"]], object), allow_pickle=True)
    for name, reason in (("o.npy", "Object arrays"), ("a.txt.npy", "no such file")):
        with pytest.raises(DataError, match=reason):
            load_dataset("file", path=str(tmp_path / name))


def test_sparse_rows(tmp_path):
    X, y = np.eye(6)[:, :4], np.array([1, -1, 1, 1, -1, -1])
    dump_svmlight_file(X, y, str(tmp_path / "a.svm"))
    data = load_dataset("file", path=str(tmp_path / "a.svm"))
    assert np.array_equal(data.X.toarray(), X) and data.classes == (-1, 1)
    (tmp_path / "b.svm").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is not in svmlight's format"):
        load_dataset("file", path=str(tmp_path / "b.svm"))
