"""Rows on the disk: the same bits as in memory, each row once an epoch, errors and not crashes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from minidl import training
from minidl.config import load_config
from minidl.data import disk, files
from minidl.data.dataset import Dataset, fingerprint
from minidl.data.disk import npy_rows
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.splits import split
from minidl.errors import DataError
from minidl.estimators import MLPClassifier, MLPRegressor
from minidl.runs.experiment import Experiment


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 10 rows of 8 float32 columns, windows of 3 blocks."""
    monkeypatch.setattr(disk, "BLOCK_BYTES", 10 * 32)
    monkeypatch.setattr(disk, "WINDOW_BLOCKS", 3)
    monkeypatch.setattr(disk, "CACHED_BLOCKS", 9)


@pytest.fixture
def saved(tmp_path, small_blocks):
    X = np.random.default_rng(0).normal(size=(257, 8)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", (X[:, 0] > 0).astype(np.int64))
    return X, str(tmp_path / "X.npy")


def test_rows_are_those_of_the_file_however_they_are_asked_for(saved):
    X, path = saved
    rows = npy_rows(path)
    assert rows.shape == X.shape and rows.dtype == X.dtype and len(rows) == len(X)
    rng = np.random.default_rng(1)
    some = np.sort(rng.choice(257, 100, replace=False))
    for found, expected in (
        (rows, X),
        (rows.part(some), X[some]),
        (rows.part(slice(200)), X[:200]),
    ):
        n = len(expected)
        assert np.array_equal(found[:], expected) and np.array_equal(found[0], expected[0])
        assert np.array_equal(found[17:60], expected[17:60]) and found[5:5].shape == (0, 8)
        for _ in range(50):  # few blocks, and more of them than the cache holds
            numbers = rng.integers(0, n, rng.integers(0, 40))
            assert np.array_equal(found[numbers], expected[numbers])
            near = rng.integers(0, n - 30) + rng.integers(0, 30, 20)
            assert np.array_equal(found[near], expected[near])
        assert np.array_equal(np.concatenate(list(found.chunks())), expected)
        assert np.array_equal(found.min(axis=0), expected.min(axis=0))
        assert found.max(initial=0) == expected.max(initial=0)


def test_numbers_of_rows_that_are_not_there_are_refused(saved):
    for rows in (npy_rows(saved[1]), npy_rows(saved[1]).part(np.arange(257))):
        for numbers in ([3, 257], [-1]):
            with pytest.raises(IndexError, match="from 0 to 256"):
                rows[np.array(numbers)]
        assert rows[np.array([], np.int64)].shape == (0, 8)


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="there is no reading at a given place")
def test_reading_leaves_the_position_of_the_file_which_threads_and_forks_share(saved):
    X, path = saved
    rows = npy_rows(path)
    before = rows._file.tell()
    assert np.array_equal(rows[17:60], X[17:60]) and np.array_equal(rows[np.array([3])], X[[3]])
    assert rows._file.tell() == before


def test_images_are_flattened(tmp_path):
    X = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    np.save(tmp_path / "X.npy", X)
    assert np.array_equal(npy_rows(str(tmp_path / "X.npy"))[:], X.reshape(5, 42))


@pytest.mark.parametrize("kind", ["f8", "f4", "u1"])
def test_a_block_of_rows_is_a_view_of_the_file_without_row_numbers(tmp_path, kind):
    X = np.arange(50_000 * 2).reshape(50_000, 2).astype(kind)
    np.save(tmp_path / "X.npy", X)
    data = Dataset("file", npy_rows(str(tmp_path / "X.npy")), np.arange(50_000) % 2, classes=(0, 1))
    parts = split(data, validation=10_000, test=5000, method="last", rng=np.random.default_rng(0))
    for part, rows in zip(parts, (X[:35_000], X[35_000:45_000], X[45_000:]), strict=True):
        assert type(part.X) is disk.DiskRows
        assert np.array_equal(part.X[:], rows) and np.array_equal(part.X[5:3:-1], rows[5:3:-1])
        assert part.y.base is data.y
        tracemalloc.start()
        part.X.part(slice(1, None))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * len(rows)  # a number for each row takes twice that


@pytest.mark.parametrize("tested", [False, True])
def test_raw_images_larger_than_memory_stay_on_the_disk(tmp_path, monkeypatch, tested):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k") if tested else ("train",):
        for name, array in (
            ("images-idx3", rng.integers(0, 256, (60, 5, 4)).astype(np.uint8)),
            ("labels-idx1", (np.arange(60) % 3).astype(np.uint8)),
        ):
            shape = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(shape + array.tobytes())
    path = tmp_path / "train-images-idx3-ubyte"
    in_memory = files.file(path=str(path))
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 1000)
    on_disk = files.file(path=str(path))
    assert on_disk.image_shape == in_memory.image_shape == (5, 4, 1)
    for name in ("X", "X_test") if tested else ("X",):
        assert type(getattr(on_disk, name)) is disk.DiskRows
        assert np.array_equal(getattr(on_disk, name)[:], getattr(in_memory, name))
    assert np.array_equal(on_disk.y, in_memory.y)
    zipped = tmp_path / "train-images-idx3-ubyte.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert type(files.file(path=str(zipped)).X) is np.ndarray
    os.truncate(path, 1100)
    with pytest.raises(DataError, match="holds 1084 bytes"):
        files.file(path=str(path))


def test_images_in_a_pair_keep_their_shape_on_the_disk(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", np.zeros((30, 6, 7, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.arange(30) % 3)
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    found = files.file(path=str(tmp_path / "X.npy"), target="y.npy")
    assert found.image_shape == (6, 7, 3) and found.X.shape == (30, 126)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("validated", [False, True])
def test_estimators_take_a_map_of_a_file_without_copying_it(tmp_path, monkeypatch, kind, validated):
    X = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    mapped, y = np.load(tmp_path / "X.npy", mmap_mode="r"), (X[:, 0] > 0).astype(np.int64)
    used = []
    check = training.checked_rows
    monkeypatch.setattr(training, "checked_rows", lambda *a: used.append(check(*a)) or used[-1])
    held_out = {"X_val": mapped[:500], "y_val": y[:500]} if validated else {}
    estimator = kind(hidden_layer_sizes=(4,), max_iter=2, early_stopping=validated, random_state=0)
    tracemalloc.start()
    estimator.fit(mapped, y, **held_out).predict(mapped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mapped.nbytes / 3
    assert len(used) == 1 + validated and all(np.shares_memory(each.X, mapped) for each in used)
    assert np.array_equal(estimator.predict(mapped), estimator.predict(X))


def test_an_epoch_holds_each_row_once_and_reads_each_block_once(saved, monkeypatch):
    _, path = saved
    rows = npy_rows(path)
    read = []
    original = disk.DiskRows._read
    monkeypatch.setattr(disk.DiskRows, "_read", lambda *a: read.append(a[1]) or original(*a))
    order = rows.shuffled(np.random.default_rng(0))
    assert sorted(order) == list(range(257))
    for start in range(0, 257, 16):
        rows[order[start : start + 16]]
    assert len(read) == len(set(read)) == 26
    assert not np.array_equal(rows.shuffled(np.random.default_rng(1)), order)


def test_blocks_are_mixed_over_the_file_and_rows_within_a_window(saved):
    _, path = saved
    order = npy_rows(path).shuffled(np.random.default_rng(0))
    window = order[:30]
    assert len({*(window // 10)}) == 3 and np.ptp(window) > 30  # blocks from all over
    assert np.abs(np.diff(window // 10)).astype(bool).sum() > 12  # and their rows are mixed


def test_what_fits_into_a_window_is_shuffled_as_in_memory(tmp_path):
    np.save(tmp_path / "X.npy", np.zeros((100, 3), np.float32))
    order = npy_rows(str(tmp_path / "X.npy")).shuffled(np.random.default_rng(3))
    assert np.array_equal(order, np.random.default_rng(3).permutation(100))


EXACT = ("mean_std", "none", "unit", "global_standard", "standard", "minmax")


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_statistics_are_those_of_all_rows_or_of_a_sample(saved, name, monkeypatch):
    X, path = saved
    monkeypatch.setattr(disk, "SAMPLE_ROWS", 100)
    rows, kind = npy_rows(path), PREPROCESSINGS[name]
    expected = kind().fit(X if name in EXACT else X[np.arange(100) * 257 // 100])
    found = kind().fit(rows).state()
    assert all(np.array_equal(found[key], value) for key, value in expected.state().items())


CONFIG = """
data: {name: file, path: X.npy, target: y.npy, preprocessing: standard, validation: 0.2}
model: [linear: 6, batch_norm, relu, linear: auto]
train: {epochs: 3, batch_size: 16, blas_threads: 1}
"""


def trained(folder, once=True):
    (folder / "c.yaml").write_text(CONFIG)
    experiment = Experiment(load_config(folder / "c.yaml"))
    training = experiment.training()
    for _ in training.steps():
        pass
    training.use_best()
    return experiment.model.params.tobytes(), type(experiment.train.X).__name__


@pytest.mark.parametrize("transformed_once", [True, False])
def test_the_disk_gives_the_bits_of_memory_where_the_order_is_the_same(
    saved, tmp_path, monkeypatch, transformed_once
):
    monkeypatch.setattr(disk, "WINDOW_BLOCKS", 100)  # all rows in one window
    monkeypatch.setattr(disk, "CACHED_BLOCKS", 300)
    if not transformed_once:
        monkeypatch.setattr("minidl.data.batches.MOST_TRANSFORMED_BYTES", 0)
    in_memory = trained(tmp_path)
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    on_disk = trained(tmp_path)
    assert (in_memory[1], on_disk[1]) == ("ndarray", "DiskRows")
    assert in_memory[0] == on_disk[0]


def test_rows_shuffled_by_blocks_are_learned(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("minidl.data.batches.MOST_TRANSFORMED_BYTES", 0)
    assert trained(tmp_path)[0] == trained(tmp_path)[0]


def test_the_fingerprint_is_kept_beside_the_file_until_it_changes(saved, tmp_path, monkeypatch):
    X, path = saved
    first = npy_rows(path).fingerprint()
    kept = json.loads((tmp_path / "X.npy.sha256.json").read_text())
    assert kept["sha256"] == first
    monkeypatch.setattr(disk.hashlib, "sha256", lambda: pytest.fail("computed again"))
    assert npy_rows(path).fingerprint() == first
    monkeypatch.undo()
    X[3, 3] += 1
    np.save(path, X)
    os.utime(path, ns=(1, 1))
    assert npy_rows(path).fingerprint() != first


def test_a_data_set_on_the_disk_has_a_fingerprint(saved, monkeypatch):
    _, path = saved
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    found = files.file(path=path, target="y.npy")
    assert found.X.path == path and found.classes == (0, 1)
    assert len(fingerprint(found)) == 2 * 64 + 1


def test_a_file_that_is_cut_short_is_an_error_and_not_a_crash(saved):
    _, path = saved
    rows = npy_rows(path)
    os.truncate(path, os.path.getsize(path) - 100)
    with pytest.raises(DataError, match="has become shorter while it was read"):
        rows[250:257]
    with pytest.raises(DataError, match="mmap length is greater than file size"):
        npy_rows(path)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2), "i8"), np.zeros(3, np.float32), np.zeros((2, 3), "f4").T]
)
def test_what_cannot_be_read_by_rows_is_refused(tmp_path, array):
    np.save(tmp_path / "X.npy", array)
    with pytest.raises(DataError, match="must be uint8, float32 or float64"):
        npy_rows(str(tmp_path / "X.npy"))


def test_a_number_that_is_not_finite_is_found(saved, tmp_path, monkeypatch):
    X, path = saved
    X[200, 2] = np.nan
    np.save(path, X)
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    with pytest.raises(DataError, match="X holds nan"):
        trained(tmp_path)


def test_reading_holds_the_cache_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(disk, "CACHED_BLOCKS", 3 * 8)
    monkeypatch.setattr(disk, "WINDOW_BLOCKS", 8)
    np.save(tmp_path / "X.npy", np.zeros((100_000, 64), np.uint8))  # 6.4 MB
    rows = npy_rows(str(tmp_path / "X.npy"))
    order = rows.shuffled(np.random.default_rng(0))
    tracemalloc.start()
    for start in range(0, 100_000, 128):
        rows[order[start : start + 128]]
    rows.fingerprint(), rows.max(axis=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * (1 << 20)


LARGE = """
data: {path: X.npy, target: y.npy, split: last, validation: 2000, test: 2000}
model: [linear: 32, relu, linear: auto]
train: {epochs: 1, batch_size: 256, shards: 1, blas_threads: 1}
output: {report: false}
"""


@pytest.mark.slow
def test_a_file_larger_than_memory_is_trained_on_in_less_than_a_gigabyte(tmp_path):
    """The file has MINIDL_PROOF_BYTES, if a third of the disk is free for it; else 1.25 GB."""
    size = int(float(os.environ.get("MINIDL_PROOF_BYTES", "1.25e9")))
    n_rows = min(size, shutil.disk_usage(tmp_path).free // 3) // (4 * 784)
    rows = np.random.default_rng(0).normal(size=(4099, 784)).astype(np.float32)
    with open(tmp_path / "X.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, 784)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, len(rows)):
            file.write(rows[: n_rows - start].data)
    np.save(tmp_path / "y.npy", (rows[np.arange(n_rows) % len(rows), 0] > 0).astype(np.int64))
    (tmp_path / "c.yaml").write_text(LARGE)
    command = [sys.executable, "-m", "minidl", "train", "c.yaml", "--out", "run", "--quiet"]
    began = time.perf_counter()
    subprocess.run(command, cwd=tmp_path, check=True)
    seconds = time.perf_counter() - began
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    read = os.path.getsize(tmp_path / "X.npy")
    print(f"{read / 1e9:.1f} GB, {seconds:.0f} s, peak {run['peak_memory_bytes'] / 1e6:.0f} MB")
    assert results["test_accuracy"] > 0.9
    assert run["peak_memory_bytes"] < 1e9
