"""The runs of a sweep, each trained by a process of its own; `python -m` this file is that process.

A run that has finished is never trained again, and one that has begun goes on from its checkpoint:
the folders are all that a sweep remembers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from minidl.blas import THREAD_VARIABLES
from minidl.config import dump, load_config
from minidl.errors import CheckpointError, MinidlError
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import Interrupts
from minidl.runs.run import Run
from minidl.runs.sweep.comparison import Outcome
from minidl.runs.sweep.planning import PlannedRun

PAUSE = 0.05  # seconds between two looks at the processes
FAILED = 1  # exit status of Python after an error that nobody expected


def train_all(
    runs: Iterable[PlannedRun],
    directory: Path,
    *,
    jobs: int,
    ended: Callable[[PlannedRun, Outcome], None],
) -> int | None:
    """Train what is not finished, `jobs` runs at a time, each in its folder under `directory`.

    `ended` is called for each run when it ends. One that fails stops none of the others. SIGINT or
    SIGTERM lets the running ones write their checkpoints and starts no more; the number of the
    signal is returned, else None.
    """
    waiting = []
    for run in runs:
        place = RunFolder(directory / run.folder)
        if place.status().get("status") == "finished":
            ended(run, _finished(place))
        else:
            waiting.append((run, place))
    running: list[_Child] = []
    interrupts = Interrupts()
    with interrupts:
        try:
            while running or (waiting and interrupts.received is None):
                while waiting and len(running) < jobs and interrupts.received is None:
                    running.append(_Child(*waiting.pop(0)))
                if interrupts.received is not None:
                    for child in running:
                        child.stop()
                for child in [one for one in running if one.has_ended]:
                    running.remove(child)
                    ended(child.run, child.outcome())
                time.sleep(PAUSE)
        finally:  # where an error ends the loop
            for child in running:
                child.stop()
            for child in running:
                child.outcome()
    return interrupts.received


class _Child:
    """The process that trains one run."""

    def __init__(self, run: PlannedRun, folder: RunFolder) -> None:
        self.run, self._folder = run, folder
        if not folder.config.exists():
            try:
                folder.path.mkdir(exist_ok=True)
                folder.write_text(folder.config, dump(run.config))
            except OSError as error:
                raise CheckpointError(f"cannot write {folder.path}: {error.strerror}") from error
        self._asked_to_stop = False
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # A run sets its own threads while it trains, but not while it measures the test set.
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            process_group=0,  # Ctrl-C reaches the sweep alone, which passes it on once
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask once for a checkpoint and the end: a second signal would kill it at once."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self._process.terminate()

    def outcome(self) -> Outcome:
        """Wait for its end, and say what it was."""
        code = self._process.wait()
        with self._errors as file:
            file.seek(0)
            lines = file.read().strip().splitlines()
        if code == 0:
            return _finished(self._folder)
        if code < 0:
            name = signal.Signals(-code).name
            return Outcome(128 - code, f"stopped by {name}")
        # The last line of a traceback says most, of our own messages the first.
        reason = (lines or [f"exit status {code}"])[-1 if code == FAILED else 0]
        return Outcome(code, reason)


def _finished(folder: RunFolder) -> Outcome:
    """The outcome of a finished run, read from its folder."""
    try:
        results = json.loads(folder.results.read_bytes())
        (best,) = (e for e in folder.metrics.read() if int(e["epoch"]) == results["best_epoch"])
        return Outcome(
            validation=_with_prefix("validation_", best),
            test=_with_prefix("test_", results),
            seconds=float(results["train_seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{folder.path}: its results cannot be read: {error}"
        return Outcome(CheckpointError.exit_code, reason)


def _with_prefix(prefix: str, figures: Mapping[str, object]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): float(str(value))
        for name, value in figures.items()
        if name.startswith(prefix)
    }


def _train(path: Path) -> int:
    """Train the run whose config stands in this folder, or go on with it; return the exit code."""
    parent = os.getppid()
    with RunFolder.open(path) as folder:
        with Run(Experiment.build(load_config(folder.config)), folder) as run:
            run.resume(lambda warning: None)
            for _ in run.steps():
                if os.getppid() != parent:  # the sweep was killed, and could not tell
                    parent = os.getppid()  # once: a second signal would end this at once
                    signal.raise_signal(signal.SIGTERM)
            if run.stopped_by is None:
                run.finish()
                return 0
            print(f"stopped by {signal.Signals(run.stopped_by).name}", file=sys.stderr)
            return 128 + run.stopped_by


def _main(arguments: Sequence[str]) -> int:
    try:
        return _train(Path(arguments[0]))
    except MinidlError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
