"""The state of a run survives as a tree; a damaged file gives way to the one before it."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minidl import checkpoint
from minidl.archive import write_archive
from minidl.errors import CheckpointError, DivergenceError

GOLDEN = Path(__file__).parent / "golden" / "checkpoint-v1.npz"
STATE = {
    "params": np.linspace(-1, 1, 7, dtype=np.float32),
    "optimizer": {"n_steps": 3, "velocity": np.arange(7, dtype=np.float32)},
    "progress": {"epoch": 1, "best_score": None, "epoch_loss": 0.1, "stopped_early": False},
    "rng": {"bit_generator": "PCG64", "state": {"state": 2**127 + 1, "inc": 3}},
    "empty": {},
}
ABOUT = {"config": "seed: 0\n", "train_seconds": 1.5}


def numbered(n):
    return {"n": n, "x": np.full(3, n)}, {}


def used(folder):
    """The numbers that `recover` gives out, and its warnings."""
    numbers, said = [], []
    found = checkpoint.recover(
        folder, lambda path, state, about: numbers.append(state["n"]), said.append
    )
    return found, numbers, said


def assert_equal(found, expected):
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected) or set(found) == set(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    else:
        assert found == expected and type(found) is type(expected)


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path, STATE, ABOUT)
    state, about = checkpoint.load(tmp_path / "last.npz")
    assert_equal(state, STATE)
    assert about == ABOUT


def test_todays_file_loads_for_ever():
    """Written by `checkpoint.save` with STATE and ABOUT as they stand above."""
    state, about = checkpoint.load(GOLDEN)
    assert_equal(state, STATE)
    assert about == ABOUT


def test_the_one_before_is_kept(tmp_path):
    for n in range(3):
        checkpoint.save(tmp_path, *numbered(n))
    assert [checkpoint.load(path)[0]["n"] for path in checkpoint.paths(tmp_path)] == [2, 1]


def test_the_newest_good_one_is_used(tmp_path):
    assert used(tmp_path) == (False, [], [])
    for n in range(2):
        checkpoint.save(tmp_path, *numbered(n))
    assert used(tmp_path) == (True, [1], [])
    last, previous = checkpoint.paths(tmp_path)
    last.write_bytes(last.read_bytes()[:-1])
    found, numbers, (warning,) = used(tmp_path)
    assert found and numbers == [0]
    assert str(last) in warning and warning.endswith(f"going on from {previous}, which is older")
    last.unlink()
    assert used(tmp_path) == (True, [0], [])
    previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other checkpoint is left"):
        used(tmp_path)


def test_one_that_cannot_be_used_is_passed_over_too(tmp_path):
    for n in range(2):
        checkpoint.save(tmp_path, *numbered(n))
    numbers, said = [], []

    def use(path, state, about):
        if state["n"] == 1:
            raise CheckpointError("not this one")
        numbers.append(state["n"])

    assert checkpoint.recover(tmp_path, use, said.append)
    assert numbers == [0] and len(said) == 1


def test_what_is_not_finite_is_not_written(tmp_path):
    checkpoint.save(tmp_path, *numbered(1))
    with pytest.raises(DivergenceError, match=r"'best\.params'"):
        checkpoint.save(tmp_path, {"best": {"params": np.array([np.nan])}}, {})
    with pytest.raises(ValueError, match="document"):
        checkpoint.save(tmp_path, {"loss": float("nan")}, {})
    assert used(tmp_path) == (True, [1], [])


@pytest.mark.parametrize(
    "arrays, document",
    [
        ({}, {}),
        ({}, {"state": [], "about": {}}),
        ({}, {"state": {}}),
        ({"x.y": np.zeros(1)}, {"state": {"x": 1}, "about": {}}),
        ({"x": np.zeros(1)}, {"state": {"x": 1}, "about": {}}),
        ({"x": np.zeros(1), "x.y": np.zeros(1)}, {"state": {}, "about": {}}),
    ],
)
def test_a_file_that_holds_no_tree_is_refused(tmp_path, arrays, document):
    path = tmp_path / "last.npz"
    write_archive(path, arrays, document, kind="checkpoint", version=1)
    with pytest.raises(CheckpointError, match=r"last\.npz"):
        checkpoint.load(path)


@pytest.mark.parametrize("seconds", ["-1", "1e999", "NaN", "-Infinity", "true", '"1"', "null"])
def test_a_time_that_cannot_be_is_refused(tmp_path, seconds):
    refuse(tmp_path, f'{{"train_seconds": {seconds}}}')


@pytest.mark.parametrize("text", [r'"\ud800"', r'"a\udfff"', "3", "[]"])
def test_a_config_that_is_no_text_is_refused(tmp_path, text):
    refuse(tmp_path, f'{{"config": {text}}}')


def refuse(folder, about):
    """Write `about` into a checkpoint with a right hash; it is refused in one line."""
    text = f'{{"arrays": [], "document": {{"state": {{}}, "about": {about}}}, '
    text += '"kind": "checkpoint", "version": 1}'
    with zipfile.ZipFile(folder / "last.npz", "w") as file:
        file.writestr("document.json", text)
        file.writestr("sha256", hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(CheckpointError, match=r"last\.npz") as caught:
        checkpoint.load(folder / "last.npz")
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_or_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "last.npz"
    write_archive(path, {}, {"state": {}, "about": {}}, kind="model", version=1)
    with pytest.raises(CheckpointError, match="it is a 'model', not a 'checkpoint'"):
        checkpoint.load(path)
    write_archive(path, {}, {"state": {}, "about": {}}, kind="checkpoint", version=2)
    with pytest.raises(CheckpointError, match="a newer minidl wrote it"):
        checkpoint.load(path)
