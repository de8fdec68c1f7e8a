"""One run's folder: what it trained, how it went, and what came of it.

config.yaml      the resolved config: training from it repeats the run
run.json         status, versions, threads, processor, data fingerprint, seed, times, memory
metrics.csv      one line an epoch, only ever appended to
checkpoints/     the whole state, to go on from
model.npz        the trained model; equal runs give equal files
results.json     what the test set said
"""

from __future__ import annotations

import csv
import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import ConfigError
from minidl.training import Epoch


class RunFolder:
    """The paths within a run folder, and the writing of its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.run = path / "run.json"
        self.metrics = path / "metrics.csv"
        self.model = path / "model.npz"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, directory: str, name: str, out: str | None) -> RunFolder:
        """Make the folder `out`, or else directory/name/TIME; refuse one that holds anything."""
        path = Path(out) if out is not None else _unused(Path(directory) / name)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ConfigError(
                    f"{path}: the output folder is not empty; choose another, or go on with the "
                    f"run in it by --resume {path}"
                )
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be used as output folder: {error.strerror}"
            ) from error
        return cls(path)

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file so that a reader finds the old or the new one, never half of it."""
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(path, json.dumps(content, indent=2) + "\n")

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
        new = not self.metrics.exists()
        with open(self.metrics, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)


def machine() -> dict[str, Any]:
    """Return what the run ran on: versions, BLAS, processor."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index,call-overload]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def now() -> str:
    """The time of day in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _unused(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, count = parent / stamp, 1
    while path.exists():
        count += 1
        path = parent / f"{stamp}-{count}"
    return path
