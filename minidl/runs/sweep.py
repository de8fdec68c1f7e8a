"""Several settings, each with several seeds, trained side by side and compared on validation data.

Every run is a process `minidl train --resume FOLDER`, and the folders are all that a sweep
remembers: a run that has finished is not trained again, one that has begun goes on.

Settings are chosen on validation data. Each run measures its test part once, for its own
results.json, and the sweep uses these figures for nothing: a table of them would turn the test part
into a second validation part.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import product
from pathlib import Path
from threading import Event

import yaml

from minidl.blas import THREAD_VARIABLES
from minidl.config import Config, differences, dump, load_config
from minidl.config.document import all_or_errors, brief, refuse
from minidl.errors import CheckpointError, ConfigError
from minidl.runs.comparison import Setting, SweepRun, best_first, csv_text
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import Interrupts, signal_name
from minidl.runs.run import changes_bits

# One thread each, so that the bits of a run do not depend on how many run at a time.
ONE_THREAD = {"train.blas_threads": "1"}
MOST_RUNS = 10_000
TABLE = "sweep.csv"
PAUSE = 0.05  # seconds between two looks for a signal, and for the end of a process
UNEXPECTED = 1  # exit status of Python after an error that nobody expected


class Sweep:
    """Settings with their runs, which are trained in one folder and compared.

    config: of the first run; it names the sweep and its folder, and settings are compared by the
    validation figure that it monitors.  stopped_by: the signal that ended `train` before all was
    trained.
    """

    def __init__(self, config: Config, settings: Sequence[Setting]) -> None:
        self.config, self.settings = config, settings
        self.stopped_by: int | None = None
        self._stop = Event()

    @property
    def runs(self) -> list[SweepRun]:
        """Every setting with the first seed, then with the next, so that all are soon compared."""
        return [run for same_seed in zip(*self.settings, strict=True) for run in same_seed]

    def open(self, out: str | None) -> RunFolder:
        """Lock the folder `out`, of this sweep or new; by default directory/NAME-sweep/TIME.

        Raises ConfigError where it cannot be used or holds the runs of another sweep.
        """
        if out is None or not os.path.exists(Path(out, TABLE)):
            directory, name = self.config.output.directory, f"{self.config.name}-sweep"
            self.folder = RunFolder.create(directory, name, out)
        else:
            self._refuse_others(Path(out))
            self.folder = RunFolder.open(Path(out))
        return self.folder

    @property
    def best_first(self) -> list[Setting]:
        """The settings in the order of the means over the runs that have finished so far."""
        return best_first(self.settings, self.config.train.monitor)

    @property
    def exit_code(self) -> int:
        """128 + the signal, or 0 where every run finished, else the largest code of a run."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return max(run.code or 0 for run in self.runs)

    def train(self, jobs: int, ended: Callable[[SweepRun], None]) -> None:
        """Train what is not finished, `jobs` runs at a time; `ended` is called after each run.

        A run that fails stops no other. The first signal (see `Interrupts`) lets the running ones
        write their checkpoints and starts no more. sweep.csv is written after each run.
        """
        self._write_table()
        with Interrupts() as interrupts, ThreadPoolExecutor(jobs) as pool:
            order = {pool.submit(self._train, run): i for i, run in enumerate(self.runs)}
            waiting = set(order)
            try:
                while waiting:
                    done, waiting = wait(waiting, PAUSE, FIRST_COMPLETED)
                    if interrupts.received is not None:
                        self.stopped_by = interrupts.received
                        self._stop.set()
                    for future in sorted(done, key=order.__getitem__):
                        if (run := future.result()).code is not None:
                            self._write_table()
                            ended(run)
            finally:  # also where an error ends the loop
                self._stop.set()

    def _write_table(self) -> None:
        self.folder.write_text(self.folder.path / TABLE, csv_text(self.best_first))

    def _train(self, run: SweepRun) -> SweepRun:
        """Let a process train one run to its end, unless it is finished or the sweep is to stop."""
        folder, code = RunFolder(self.folder.path / run.folder), 0
        lines: list[str] = []
        if not folder.is_finished():
            if self._stop.is_set():
                return run
            if not folder.config.exists():
                folder.begin(dump(run.config))
            code, lines = train_in_process(folder, self._stop)
        if code == 0:
            try:
                (run.epochs, run.results), run.code = folder.outcome(), 0
            except CheckpointError as error:
                run.code, run.reason = error.exit_code, str(error)
        elif code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            run.code, run.reason = 128 + number, f"stopped by {signal_name(number)}"
        else:
            # The last line of a traceback says most; of an expected error, the first one.
            run.code = code
            run.reason = (lines or [f"exit status {code}"])[-1 if code == UNEXPECTED else 0]
        return run

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


def plan(path: Path, arguments: Sequence[str], *, n_seeds: int) -> Sweep:
    """Return the sweep of a config file with `key=v1,v2` arguments, all combinations checked.

    Each combination gets the config's seed and the n_seeds - 1 that follow it. A seed also draws
    the split, so that all settings are compared on the same splits.

    Raises ConfigError with all that is wrong in any combination, as a single run would say it, and
    DataError where the data are not available: `data.fallback` is not used.
    """
    values = _values(arguments)
    n_runs = math.prod(map(len, values.values())) * n_seeds
    if n_runs > MOST_RUNS:
        raise ConfigError(f"these are {n_runs} runs; a sweep has at most {MOST_RUNS}")
    combinations = [dict(zip(values, each, strict=True)) for each in product(*values.values())]

    def load(setting: dict[str, str]) -> Config:
        return load_config(
            path, [f"{key}={value}" for key, value in (setting | ONE_THREAD).items()]
        )

    configs = all_or_errors(load, combinations)
    _check_comparable(configs)
    settings = []
    for setting, config in zip(combinations, all_or_errors(_resolved, configs), strict=True):
        shown = {key: setting[key] for key, options in values.items() if len(options) > 1}
        # One page for the sweep, in place of one for each run.
        output = config.output.model_copy(update={"report": False})
        seeds = range(config.seed, config.seed + n_seeds)
        runs = [config.model_copy(update={"seed": seed, "output": output}) for seed in seeds]
        settings.append([SweepRun(shown, run) for run in runs])
    return Sweep(configs[0], settings)


def split_values(text: str) -> list[str]:
    """Split at the commas of a YAML list without its brackets.

    >>> split_values("{name: sgd, learning_rate: 0.1}, adam")
    ['{name: sgd, learning_rate: 0.1}', 'adam']
    """
    try:
        found = yaml.compose(f"[{text}\n]", yaml.SafeLoader)
    except yaml.YAMLError:  # the config's reader says what is wrong
        found = None
    entries = found.value if isinstance(found, yaml.SequenceNode) else []
    marks = [(entry.start_mark.index - 1, entry.end_mark.index - 1) for entry in entries]
    return [text[start:stop].strip() for start, stop in marks] or [text.strip()]


def _values(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, in the order of the arguments."""
    values: dict[str, list[str]] = {}
    errors = []
    for text in arguments:
        key, _, value = text.partition("=")
        key, options = key.strip(), split_values(value)
        where = f"override {brief(text)}"
        if key in values:
            errors.append(f"{where}: {key} is set twice")
        if key in ONE_THREAD:
            errors.append(f"{where}: each run of a sweep has one thread; use --jobs")
        if key == "seed" and len(options) > 1:
            errors.append(f"{where}: give the first seed, and how many by --seeds")
        if len(set(options)) < len(options):
            errors.append(f"{where}: a value is given twice")
        values[key] = options
    refuse(errors)
    return values


def _check_comparable(configs: Sequence[Config]) -> None:
    """Refuse settings that no figure compares: they are put in order by the monitored one."""
    first, *others = configs
    if any(config.train.monitor != first.train.monitor for config in others):
        raise ConfigError("the settings differ in train.monitor, by which they are compared")
    if first.train.monitor == "loss" and any(config.loss != first.loss for config in others):
        figures = [name for name in first.figures[1:] if all(name in c.figures for c in others)]
        raise ConfigError(
            "the settings differ in the loss, so that its values cannot be compared; set "
            f"train.monitor to {' or '.join(figures)}"
        )


def _resolved(config: Config) -> Config:
    """The config with all automatic choices made, after everything that it names was built."""
    experiment = Experiment(config)
    if experiment.validation is None:
        raise config.error(
            "data.validation", "settings are chosen on validation data; set it, for example to 0.2"
        )
    experiment.training()  # checks what only the loop knows
    return experiment.config
