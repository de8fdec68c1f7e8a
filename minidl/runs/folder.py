"""One run's folder: what it trained, how it went, and what came of it.

config.yaml      the resolved config: training from it repeats the run
run.json         status, versions, threads, processor, data fingerprint, seed, times, memory
metrics.csv      one line an epoch, only ever appended to
checkpoints/     the whole state, to go on from
model.npz        the trained model; equal runs give equal files
results.json     what the test set said
lock             held by the process that trains here; a dead process holds none
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from minidl.atomic import is_leftover, remove_leftovers, replace_file
from minidl.errors import CheckpointError, ConfigError
from minidl.training import Epoch


class RunFolder:
    """The paths within a run folder, the lock on it, and the writing of its small files.

    As a context manager it holds the lock: two processes never write into one folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.run = path / "run.json"
        self.metrics = path / "metrics.csv"
        self.model = path / "model.npz"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.lock = path / "lock"
        self._lock_file: TextIO | None = None

    @classmethod
    def create(cls, directory: str, name: str, out: str | None) -> RunFolder:
        """Make and lock the folder `out`, or else directory/name/TIME.

        Raises ConfigError for a folder that cannot be made or in which a run has started; one that
        holds no more than a lock and a config has not.
        """
        try:
            if out is None:
                path = _new_folder(Path(directory) / name)
            else:
                path = Path(out)
                path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder._refuse_started()  # before the lock is written, into what may be no run at all
            folder.acquire()
            folder._refuse_started()
        except OSError as error:
            where = out if out is not None else str(Path(directory) / name)
            raise ConfigError(
                f"{where}: cannot be used as output folder: {error.strerror}"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Lock the folder of a run that has begun; raise ConfigError where there is none."""
        folder = cls(path)
        if not path.is_dir():
            raise ConfigError(f"{path}: no such run folder")
        if not (folder.config.exists() or folder.lock.exists()):
            raise ConfigError(f"{path}: not a run folder: it holds no config.yaml")
        try:
            folder.acquire()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
        return folder

    @classmethod
    def latest(cls, directory: str, name: str | None = None) -> Path:
        """Return the folder in `directory` whose run began last; of the config `name`, if given."""
        configs = sorted(
            Path(directory).glob(f"{name or '*'}/*/config.yaml"),
            key=lambda path: (path.stat().st_mtime_ns, path),
        )
        if not configs:
            raise ConfigError(f"no run to resume in {Path(directory) / (name or '')}")
        return configs[-1].parent

    def acquire(self) -> None:
        """Take the lock, or raise ConfigError where another process holds it."""
        file = open(self.lock, "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        if self.checkpoints.is_dir():
            remove_leftovers(self.checkpoints)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock_file is not None:
            with suppress(OSError):
                self._lock_file.close()
            self._lock_file = None

    def status(self) -> dict[str, Any]:
        """What run.json says; empty where it says nothing that can be read."""
        try:
            content = json.loads(self.run.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file so that a reader finds the old or the new one, never half of it."""
        replace_file(path, lambda file: file.write(text.encode()))

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all, each innermost list on one line."""
        text = json.dumps(content, indent=2, allow_nan=False)
        text = re.sub(r"\[\n([^\[\]{}]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text)
        self.write_text(path, text + "\n")

    def append_metrics(self, epoch: Epoch) -> None:
        """Add one line to metrics.csv, under a header that names the columns."""
        row: dict[str, Any] = {
            "epoch": epoch.epoch,
            "step": epoch.step,
            "learning_rate": epoch.learning_rate,
            **{f"train_{name}": value for name, value in epoch.train.items()},
            **{f"validation_{name}": value for name, value in epoch.validation.items()},
            "seconds": round(epoch.seconds, 4),
        }
        try:
            new = not self.metrics.exists()
            with open(self.metrics, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.metrics}: {error.strerror}") from error

    def sync_metrics(self) -> None:
        """Make the lines of metrics.csv durable: a checkpoint that follows relies on them."""
        try:
            with open(self.metrics, "rb+") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CheckpointError(f"cannot write {self.metrics}: {error.strerror}") from error

    def cut_metrics(self, step: int) -> None:
        """Keep the lines up to `step`; what was trained after it is trained again."""
        try:
            lines = self.metrics.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckpointError(f"cannot read {self.metrics}: {error.strerror}") from error
        kept = [line for line in lines[1:] if _step_of(line) <= step]
        if not kept:
            self.metrics.unlink()
        elif len(kept) < len(lines) - 1:
            text = b"".join(lines[:1] + kept)
            replace_file(self.metrics, lambda file: file.write(text))

    def _refuse_started(self) -> None:
        # A config beside no lock is not a run's but somebody's.
        ours = {self.lock.name, self.config.name} if self.lock.exists() else set()
        found = [p.name for p in self.path.iterdir() if p.name not in ours]
        if any(not is_leftover(name) for name in found):
            if self.run.exists() and self.lock.exists():
                with self:  # a process that trains here is the better reason
                    self.acquire()
            hint = f", or go on with the run in it by --resume {self.path}"
            raise ConfigError(
                f"{self.path}: the output folder is not empty; choose another"
                f"{hint if self.run.exists() else ''}"
            )


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.csv; infinite for one that a crash cut short."""
    fields = line.split(b",")
    whole = line.endswith(b"\n") and len(fields) > 1 and fields[1].isdigit()
    return int(fields[1]) if whole else float("inf")


def _new_folder(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    count = 1
    while True:
        path = parent / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.is_dir():
                raise
            count += 1
