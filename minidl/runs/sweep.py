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
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from minidl.blas import THREAD_VARIABLES
from minidl.config import Config, differences, dump, load_config
from minidl.config.document import refuse
from minidl.errors import CheckpointError
from minidl.runs.comparison import Setting, SweepRun, best_first, csv_text
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import Interrupts, signal_name
from minidl.runs.run import changes_bits

TABLE = "sweep.csv"
PAUSE = 0.05  # seconds between two looks for a signal, and for the end of a process
UNEXPECTED = 1  # exit status of Python after an error that nobody expected


class Sweep:
    """Settings with their runs, which are trained in one folder and compared.

    config: names the sweep and its folder.  by: the validation figure that the settings are
    compared by.  stopped_by: the signal that ended `train` before all was trained.
    """

    def __init__(self, config: Config, settings: Sequence[Setting], by: str) -> None:
        self.config, self.settings, self.by = config, settings, by
        self.stopped_by: int | None = None
        self._stop = Event()

    @property
    def runs(self) -> list[SweepRun]:
        """Every setting with the first seed, then with the next, so that all are soon compared."""
        return [run for same_seed in zip(*self.settings, strict=True) for run in same_seed]

    def open(self, out: str | None) -> Sweep:
        """Lock the folder `out`, of this sweep or new; by default directory/NAME-sweep/TIME.

        Raises ConfigError where it cannot be used or holds the runs of another sweep.
        """
        if out is None or not os.path.exists(Path(out, TABLE)):
            directory, name = self.config.output.directory, f"{self.config.name}-sweep"
            self.folder = RunFolder.create(directory, name, out)
        else:
            self._refuse_others(Path(out))
            self.folder = RunFolder.open(Path(out))
        return self

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.__exit__()

    @property
    def best_first(self) -> list[Setting]:
        """The settings in the order of the means over the runs that have finished so far."""
        return best_first(self.settings, self.by)

    @property
    def exit_code(self) -> int:
        """128 + the signal, or 0 where every run finished, else the largest code of a run."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return max(run.code or 0 for run in self.runs)

    def folder_of(self, run: SweepRun) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.folder.path / run.folder)

    def train(self, jobs: int, ended: Callable[[SweepRun], None]) -> None:
        """Train what is not finished, `jobs` runs at a time; `ended` is called after each run.

        A run that fails stops no other. The first signal (see `Interrupts`) lets the running ones
        write their checkpoints and starts no more. sweep.csv is written anew after each run.
        """

        def write_table() -> None:
            text = csv_text(self.best_first)
            self.folder.write_text(self.folder.path / TABLE, text)

        def note(run: SweepRun) -> None:
            if run.code is not None:
                write_table()
                ended(run)

        write_table()
        waiting = []
        for run in self.runs:
            if self.folder_of(run).is_finished():
                self._take_results(run)
                note(run)
            else:
                waiting.append(run)
        with Interrupts() as interrupts, ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self._train, run) for run in waiting}
            try:
                while futures:
                    done, futures = wait(futures, PAUSE, FIRST_COMPLETED)
                    if interrupts.received is not None:
                        self.stopped_by = interrupts.received
                        self._stop.set()
                    for future in done:
                        note(future.result())
            finally:  # also where an error ends the loop
                self._stop.set()

    def _train(self, run: SweepRun) -> SweepRun:
        """Let a process train one run to its end, unless the sweep is to stop."""
        if self._stop.is_set():
            return run
        folder = self.folder_of(run)
        if not folder.config.exists():
            folder.begin(dump(run.config))
        code, lines = train_in_process(folder, self._stop)
        if code == 0:
            self._take_results(run)
        elif code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            run.code, run.reason = 128 + number, f"stopped by {signal_name(number)}"
        else:
            # The last line of a traceback says most; of an expected error, the first one.
            reason = (lines or [f"exit status {code}"])[-1 if code == UNEXPECTED else 0]
            run.code, run.reason = code, reason
        return run

    def _take_results(self, run: SweepRun) -> None:
        """Read how a finished run ended from its folder."""
        try:
            run.figures, run.code = self.folder_of(run).figures(), 0
        except CheckpointError as error:
            run.code, run.reason = error.exit_code, str(error)

    def _refuse_others(self, out: Path) -> None:
        """Raise ConfigError where `out` holds runs that differ in more than this sweep varies."""
        runs = {run.folder: run for run in self.runs}
        first = self.runs[0]
        wrong: list[str] = []
        for file in sorted(out.glob("*/config.yaml")):
            run = runs.get(file.parent.name)
            free = () if run is not None else (*first.values, "seed", "train.shards")
            found = differences(load_config(file), (run or first).config)
            for key, (before, now) in found.items():
                if changes_bits(key) and not any(f"{key}.".startswith(f"{name}.") for name in free):
                    wrong.append(f"{file.parent}: {key} was {before} and is {now} now")
        if wrong:
            refuse([f"{out} holds runs of other settings; choose another folder:", *wrong])


def train_in_process(folder: RunFolder, stop: Event) -> tuple[int, list[str]]:
    """Train the run in the folder in a process, or go on with it.

    The process stops with a checkpoint when its standard input is closed: after `stop` is set, and
    also where the sweep is killed. Returns its exit status and the lines of its errors.
    """
    command = [sys.executable, "-m", "minidl", "train", "--quiet", "--stop-with-stdin"]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [*command, "--resume", str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # A run sets its own threads while it trains, but not while it reads the data.
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            # Ctrl-C reaches the sweep alone.
            process_group=0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        ) as process:
            while process.poll() is None and not stop.wait(PAUSE):
                pass
        # The end of the block has closed the input and waited for the end.
        errors.seek(0)
        return process.returncode, errors.read().decode(errors="replace").strip().splitlines()
