"""A run folder belongs to one process; its small files are whole; its records can be cut."""

import csv
import fcntl
import json
import os
from pathlib import Path

import pytest

from minidl import Epoch
from minidl.errors import CheckpointError, ConfigError
from minidl.runs.folder import RunFolder


def epoch(n):
    return Epoch(n, 10 * n, 0.1, {"loss": 1.5 / n, "accuracy": 0.5}, {"loss": 2.0}, 0.25, True)


def create(path):
    return RunFolder.create("unused", "unused", str(path))


def test_the_default_is_a_folder_of_its_own_for_each_run(tmp_path):
    folders = [RunFolder.create(str(tmp_path / "runs"), "name", None) for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    assert {folder.path.parent for folder in folders} == {tmp_path / "runs" / "name"}
    for folder in folders:
        folder.__exit__()


def test_a_folder_in_which_a_run_has_not_started_may_be_used(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / ".config.yaml.0a1b2c3d.tmp").touch()
    with create(tmp_path):
        assert sorted(file.name for file in tmp_path.iterdir()) == ["config.yaml", "lock"]


@pytest.mark.parametrize("name", ["notes.txt", "run.json", ".hidden", "x.tmp", "config.yaml"])
def test_any_other_folder_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}: the output folder is not empty"):
        create(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_the_refusal_shows_how_to_go_on_with_the_run_in_it(tmp_path):
    with create(tmp_path) as folder:
        folder.config.touch()
        folder.run.touch()
    with pytest.raises(ConfigError, match=f"go on with the run in it by --resume {tmp_path}"):
        create(tmp_path)


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{out}: cannot be used as output folder: "):
        RunFolder.create("unused", "unused", out)


def test_a_parent_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/name: cannot be used as output folder: Not a dir"):
        RunFolder.create(str(tmp_path / "file"), "name", None)


def test_two_runs_in_one_folder_are_one_too_many(tmp_path):
    with create(tmp_path) as folder:
        folder.config.touch()
        folder.run.touch()
        said = f"process {os.getpid()} is training in this folder"
        with pytest.raises(ConfigError, match=said):
            RunFolder.open(tmp_path)
        with pytest.raises(ConfigError, match=said):
            create(tmp_path)
    with RunFolder.open(tmp_path):
        pass


def test_a_dead_process_holds_no_lock(tmp_path):
    pid = os.fork()
    if pid == 0:
        create(tmp_path)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert (tmp_path / "lock").read_text() == f"{pid}\n"
    with RunFolder.open(tmp_path) as folder, open(folder.lock) as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_no_run_folder_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="missing: no such run folder"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    with create(tmp_path) as folder:
        folder.config.touch()
        folder.checkpoints.mkdir()
    leftovers = [tmp_path / ".run.json.01234567.tmp", folder.checkpoints / ".last.npz.89abcdef.tmp"]
    for leftover in leftovers:
        leftover.touch()
    with RunFolder.open(tmp_path):
        assert not any(leftover.exists() for leftover in leftovers)


def test_the_latest_run_is_the_one_that_began_last(tmp_path):
    for i, place in enumerate(["a/1", "b/1", "b/2", "a/0", "a/2"]):
        (tmp_path / place).mkdir(parents=True)
        if place != "a/2":  # it has not begun
            (tmp_path / place / "config.yaml").touch()
            os.utime(tmp_path / place / "config.yaml", (i, i))
    assert RunFolder.latest(str(tmp_path)) == tmp_path / "a/0"
    assert RunFolder.latest(str(tmp_path), "b") == tmp_path / "b/2"
    with pytest.raises(ConfigError, match=r"no run to resume in .*c$"):
        RunFolder.latest(str(tmp_path), "c")


def test_metrics_are_a_table_with_a_header(tmp_path):
    with create(tmp_path) as folder:
        for n in (1, 2):
            folder.metrics.append(epoch(n))
        folder.metrics.sync()
    with open(folder.metrics.path) as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20"]
    assert rows[1]["train_loss"] == "0.75" and rows[1]["validation_loss"] == "2.0"


@pytest.mark.parametrize("step, kept", [(30, 3), (29, 2), (10, 1)])
def test_metrics_after_a_step_are_cut(tmp_path, step, kept):
    with create(tmp_path) as folder:
        for n in (1, 2, 3):
            folder.metrics.append(epoch(n))
        whole = folder.metrics.path.read_bytes()
        folder.metrics.cut(step)
    assert folder.metrics.path.read_bytes() == b"".join(whole.splitlines(True)[: kept + 1])


def test_metrics_before_the_first_epoch_are_none(tmp_path):
    with create(tmp_path) as folder:
        folder.metrics.cut(0)
        folder.metrics.append(epoch(1))
        folder.metrics.cut(9)
        assert not folder.metrics.path.exists()


def test_a_line_that_a_crash_cut_short_is_cut(tmp_path):
    with create(tmp_path) as folder:
        for n in (1, 2):
            folder.metrics.append(epoch(n))
        whole = folder.metrics.path.read_bytes()
        end_of_first = len(whole) - len(whole.splitlines(True)[-1])
        for length in range(end_of_first, len(whole)):
            folder.metrics.path.write_bytes(whole[:length])
            folder.metrics.cut(99)
            assert folder.metrics.path.read_bytes() == whole[:end_of_first]


def test_the_folders_are_synced_after_something_is_made_in_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        "minidl.runs.folder.sync_folder",
        lambda path: synced.append((Path(path), set(os.listdir(path)))),
    )
    with create(tmp_path) as folder:
        assert synced[-1][0] == folder.path.parent and folder.path.name in synced[-1][1]
        folder.begin("seed: 1\n")
        assert synced[-1][0] == folder.path and {"config.yaml", "checkpoints"} <= synced[-1][1]
        folder.metrics.append(epoch(1))
        assert synced[-1][0] == folder.path and "metrics.csv" in synced[-1][1]


def test_json_is_written_whole_and_without_what_json_does_not_know(tmp_path):
    with create(tmp_path) as folder:
        folder.write_json(folder.results, {"accuracy": 0.5, "matrix": [[1, 2], [3, 4]], "s": "[ ]"})
        text = folder.results.read_text()
        assert json.loads(text) == {"accuracy": 0.5, "matrix": [[1, 2], [3, 4]], "s": "[ ]"}
        assert "[1, 2]" in text
        with pytest.raises(ValueError):
            folder.write_json(folder.results, {"loss": float("nan")})
        assert folder.results.read_text() == text


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\xff"])
def test_a_status_that_cannot_be_read_is_no_status(tmp_path, text):
    with create(tmp_path) as folder:
        assert folder.status() == {}
        folder.run.write_text(text, encoding="latin-1")
        assert folder.status() == {}


def test_a_disk_that_fails_is_told_in_one_line(tmp_path):
    with create(tmp_path) as folder:
        folder.metrics.path.mkdir()
        for call in (lambda: folder.metrics.append(epoch(1)), folder.metrics.sync):
            with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.csv: Is a dir"):
                call()
        with pytest.raises(CheckpointError, match=r"cannot read .*metrics\.csv: Is a dir"):
            folder.metrics.cut(1)
