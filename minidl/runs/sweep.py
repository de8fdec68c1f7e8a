"""Several settings, each with several seeds, trained side by side and compared on validation data.

Every run is a process `minidl train --resume FOLDER`, and the folders are all that a sweep
remembers: a run that has finished is not trained again, one that has begun goes on.

Settings are chosen on validation data. Each run measures its test part once, for its own
results.json, and the sweep uses these figures for nothing: a table of them would turn the test part
into a second validation part.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Lock

from minidl.blas import THREAD_VARIABLES
from minidl.config import differences, dump, load_config
from minidl.config.document import fail
from minidl.runs.comparison import Outcome, Row, best_first, csv_text
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import Interrupts, signal_name
from minidl.runs.plan import Plan, PlannedRun
from minidl.runs.run import changes_bits

TABLE = "sweep.csv"
PAUSE = 0.05  # seconds between two looks for a signal
UNEXPECTED = 1  # exit status of Python after an error that nobody expected


class Sweep:
    """The runs of a plan in a folder, trained and compared.

    path: its folder.  stopped_by: the signal that ended `train` before all was trained.
    """

    def __init__(self, planned: Plan, folder: RunFolder) -> None:
        self.plan, self.path = planned, folder.path
        self.stopped_by: int | None = None
        self._folder = folder
        self._outcomes: dict[str, Outcome] = {}
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = Lock()  # of the two above

    @classmethod
    def open(cls, planned: Plan, out: str | None) -> Sweep:
        """Lock the folder `out`, of this sweep or new; by default directory/NAME-sweep/TIME.

        Raises ConfigError where it cannot be used or holds the runs of another sweep.
        """
        if out is None or not os.path.exists(Path(out, TABLE)):
            return cls(planned, RunFolder.create(planned.directory, f"{planned.name}-sweep", out))
        _refuse_others(planned, Path(out))
        return cls(planned, RunFolder.open(Path(out)))

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    @property
    def rows(self) -> list[Row]:
        """The settings with the outcomes so far, the best first."""
        return best_first(
            [
                Row(runs[0].values, [self._outcomes.get(run.folder) for run in runs])
                for runs in self.plan.settings
            ],
            self.plan.by,
        )

    @property
    def n_ended(self) -> int:
        """How many runs have ended."""
        return len(self._outcomes)

    @property
    def exit_code(self) -> int:
        """128 + the signal, or 0 where every run finished, else the largest code of a run."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return max(outcome.code for outcome in self._outcomes.values())

    def train(self, jobs: int, ended: Callable[[PlannedRun, Outcome], None]) -> None:
        """Train what is not finished, `jobs` runs at a time; `ended` is called after each run.

        A run that fails stops no other. The first signal (see `Interrupts`) lets the running ones
        write their checkpoints and starts no more. sweep.csv is written anew after each run.
        """

        def note(run: PlannedRun, outcome: Outcome) -> None:
            self._outcomes[run.folder] = outcome
            self._write_table()
            ended(run, outcome)

        self._write_table()
        waiting = []
        for run in self.plan.runs:
            folder = RunFolder(self.path / run.folder)
            if folder.is_finished():
                note(run, Outcome.of_finished(folder))
            else:
                waiting.append(run)
        interrupts = Interrupts()
        with interrupts, ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self._train, run): run for run in waiting}
            try:
                while futures:
                    done, _ = wait(futures, PAUSE, FIRST_COMPLETED)
                    if interrupts.received is not None:
                        self.stopped_by = interrupts.received
                        self._stop()
                    for future in done:
                        run, outcome = futures.pop(future), future.result()
                        if outcome is not None:
                            note(run, outcome)
            finally:  # also where an error ends the loop
                self._stop()

    def _train(self, run: PlannedRun) -> Outcome | None:
        """Let a process train one run to its end; None where no more are started."""
        folder = RunFolder(self.path / run.folder)
        with self._lock:
            if self._stopping:
                return None
            folder.prepare(dump(run.config))
            process = _start(folder)
            self._processes.add(process)
        assert process.stderr is not None
        with process.stderr as errors:
            lines = errors.read().strip().splitlines()
        code = process.wait()
        with self._lock:
            self._processes.remove(process)
        _close(process)
        if code == 0:
            return Outcome.of_finished(folder)
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            return Outcome(128 + number, f"stopped by {signal_name(number)}")
        # The last line of a traceback says most, of our own messages the first.
        reason = (lines or [f"exit status {code}"])[-1 if code == UNEXPECTED else 0]
        return Outcome(code, reason)

    def _stop(self) -> None:
        """Ask the running processes for their checkpoints, and start no more."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                _close(process)

    def _write_table(self) -> None:
        self._folder.write_text(self.path / TABLE, csv_text(self.rows))


def _start(folder: RunFolder) -> subprocess.Popen[str]:
    """A process that trains the run in the folder, or goes on with it."""
    command = [sys.executable, "-m", "minidl", "train", "--quiet", "--stop-with-stdin"]
    return subprocess.Popen(
        [*command, "--resume", str(folder.path)],
        stdin=subprocess.PIPE,  # the process stops when this is closed, also where the sweep dies
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # A run sets its own threads while it trains, but not while it reads the data.
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
        # Ctrl-C reaches the sweep alone.
        process_group=0,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _close(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()


def _refuse_others(planned: Plan, out: Path) -> None:
    """Raise ConfigError where `out` holds runs that differ in more than what this sweep varies."""
    runs = {run.folder: run for run in planned.runs}
    first = planned.runs[0]
    wrong = []
    for file in sorted(out.glob("*/config.yaml")):
        run = runs.get(file.parent.name)
        free = () if run is not None else (*first.values, "seed", "train.shards")
        found = differences(load_config(file), (run or first).config)
        for key, (before, now) in found.items():
            if changes_bits(key) and not any(f"{key}.".startswith(f"{name}.") for name in free):
                wrong.append(f"{file.parent}: {key} was {before} and is {now} now")
    if wrong:
        raise fail([f"{out} holds runs of other settings; choose another folder:", *wrong])
