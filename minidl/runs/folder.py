"""One run's folder: its config, its records and its results.

config.yaml      the resolved config: training from it repeats the run
run.json         status, versions, threads, processor, data fingerprint, seed, times, memory
metrics.csv      one line an epoch
checkpoints/     the whole state, to go on from
model.npz        the trained model; equal runs give equal files
results.json     how the model does on the test part
report.html      pictures and figures for people
lock             held by the process that trains here; a dead process holds none
"""

import csv
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO

from minidl.atomic import is_leftover, remove_leftovers, replace_file, sync_folder
from minidl.errors import CheckpointError, ConfigError
from minidl.progress import Epoch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

FAR = 2**30  # Windows lets nobody read a locked byte: this one is behind the contents


class RunFolder:
    """The paths within a run folder, the lock on it, and the writing of its small files.

    As a context manager it holds the lock: two processes never write into one folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.run = path / "run.json"
        self.metrics = Metrics(path / "metrics.csv")
        self.model = path / "model.npz"
        self.results = path / "results.json"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.lock = path / "lock"
        self._lock_file: TextIO | None = None

    @classmethod
    def create(cls, directory: str, name: str, out: str | None) -> Self:
        """Make and lock the folder `out`, or else directory/name/TIME.

        Raises ConfigError for a folder that cannot be made or in which a run has started. A folder
        that holds only a lock and a config is one in which no run has started.
        """
        try:
            if out is None:
                path = _new_folder(Path(directory) / name)
            else:
                path = Path(out)
                path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            names = folder._names()
            if not names or folder.lock.name in names:  # no lock is written into another folder
                folder.acquire()
                names = folder._names() - {folder.lock.name, folder.config.name}
            if names:
                folder.__exit__()
                hint = f", or go on with the run in it by --resume {path}"
                raise ConfigError(
                    f"{path}: the output folder is not empty; choose another"
                    + hint * (folder.run.name in names)
                )
            sync_folder(path.absolute().parent)
        except OSError as error:
            where = out if out is not None else str(Path(directory) / name)
            raise ConfigError(
                f"{where}: cannot be used as output folder: {error.strerror}"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Lock the folder of a run that has begun; raise ConfigError where there is none."""
        folder, failed = cls(path), "read"
        try:
            if folder._names().isdisjoint({folder.config.name, folder.lock.name}):
                raise ConfigError(f"{path}: not a run folder: it holds no config.yaml")
            failed = "written"
            folder.acquire()
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such run folder") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be {failed}: {error.strerror}") from error
        return folder

    @classmethod
    def latest(cls, directory: str, name: str | None = None) -> Path:
        """Return the newest run folder in `directory`, of the config `name` if given."""
        where = Path(directory) / (name or "")
        try:
            configs = sorted(
                Path(directory).glob(f"{name or '*'}/*/config.yaml"),
                key=lambda path: (path.stat().st_mtime_ns, path),
            )
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
        if not configs:
            raise ConfigError(f"no run to resume in {where}")
        return configs[-1].parent

    def acquire(self) -> None:
        """Take the lock, or raise ConfigError where another process holds it."""
        file = open(self.lock, "a+", encoding="utf-8")
        try:
            _take_lock(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip()
            file.close()
            raise ConfigError(
                f"{self.path}: process {holder or '(unknown)'} is training in this folder; wait "
                "for it to end, or stop it"
            ) from None
        except OSError:
            file.close()
            raise
        self._lock_file = file
        with suppress(OSError):  # the number is only for the message above
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        remove_leftovers(self.path)
        remove_leftovers(self.checkpoints)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock_file is not None:
            with suppress(OSError):
                self._lock_file.close()
            self._lock_file = None

    def status(self) -> dict[str, Any]:
        """Return what run.json says; nothing where it cannot be read."""
        with suppress(CheckpointError):
            return _read_json(self.run)
        return {}

    def outcome(self) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Return the rows of metrics.csv and the results of a finished run.

        The results are those of results.json and the validation figures of the best epoch.
        Raises CheckpointError where they cannot be read.
        """
        results = _read_json(self.results)
        try:
            epochs = self.metrics.read()
            (best,) = (row for row in epochs if int(row["epoch"]) == results["best_epoch"])
            kept = ("validation_", "test_", "train_seconds")
            figures = {name: x for name, x in {**best, **results}.items() if name.startswith(kept)}
            return epochs, results | {name: float(x) for name, x in figures.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path}: its results cannot be read: {error}") from error

    def is_finished(self) -> bool:
        """Whether the run was trained to its end, and its model and results are still here."""
        files = (self.model, self.results)
        return self.status().get("status") == "finished" and all(map(os.path.isfile, files))

    def begin(self, config: str) -> None:
        """Write the config of a run, and make the folder of its checkpoints."""
        try:
            self.path.mkdir(exist_ok=True)
            self.write_text(self.config, config)
            self.checkpoints.mkdir(exist_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error

    def write_text(self, path: Path, text: str) -> None:
        """Replace a small file: a reader finds the old or the new text, never a part of it."""
        replace_file(path, lambda file: file.write(text.encode()))

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Replace a JSON file, with each innermost list on one line."""
        text = json.dumps(content, indent=2, allow_nan=False)
        text = re.sub(r"\[\n([^\[\]{}]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text)
        self.write_text(path, text + "\n")

    def _names(self) -> set[str]:
        return {name for name in os.listdir(self.path) if not is_leftover(name)}


class Metrics:
    """metrics.csv: one line an epoch, under a header that names the columns.

    The methods raise CheckpointError where the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, epoch: Epoch) -> None:
        """Add the line of one epoch."""
        row = {name: value for name, value in epoch.items() if name != "improved"}
        row["seconds"] = round(epoch.seconds, 4)
        with self._errors("write"):
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if is_new := file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
            if is_new:
                sync_folder(self.path.parent)

    def read(self) -> list[dict[str, str]]:
        """The rows. Raises OSError or ValueError for a file that cannot be read."""
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def sync(self) -> None:
        """Make the lines durable: a checkpoint that follows relies on them."""
        with self._errors("write"), suppress(FileNotFoundError), open(self.path, "rb+") as file:
            os.fsync(file.fileno())

    def cut(self, step: int) -> None:
        """Keep the epochs that ended up to `step`; what was trained after it is trained again."""
        lines: list[bytes] = []
        with self._errors("read"), suppress(FileNotFoundError):
            lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines[1:] if _is_row(line) and int(line.split(b",")[1]) <= step]
        if lines and not kept:
            self.path.unlink()
        elif lines[:1] + kept != lines:
            replace_file(self.path, lambda file: file.writelines(lines[:1] + kept))

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot {action} {self.path}: {error.strerror}") from error


def _is_row(line: bytes) -> bool:
    """Whether this is a complete line of an epoch, not cut short by a crash."""
    fields = line.split(b",")
    return line.endswith(b"\n") and len(fields) > 2 and fields[0].isdigit() and fields[1].isdigit()


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for name in itertools.chain([stamp], (f"{stamp}-{n}" for n in itertools.count(2))):
        with suppress(FileExistsError):
            (parent / name).mkdir()
            break
    return parent / name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no map")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return content


def _take_lock(file: TextIO) -> None:
    """Take the lock on an open file, at once; BlockingIOError where another process holds it.

    Closing the file releases it. On a system without locks nothing is done.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(file.fileno(), FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, "locked by another process") from error
