"""A sweep from its folder to its table: what was trained before, what is still to be trained.

Settings are chosen on validation data.  Every run reads its test set once, for its own
results.json; here the test figures are used for nothing, and those of the setting that came first
are handed out alone: a table of them would turn the test set into a second validation set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minidl.config import differences, load_config
from minidl.config.document import fail
from minidl.runs.folder import RunFolder
from minidl.runs.run import changes_bits
from minidl.runs.sweep.comparison import Outcome, Row, compare, csv_text, in_words
from minidl.runs.sweep.planning import PlannedRun, Sweep
from minidl.runs.sweep.processes import train_all
from minidl.terminal import duration

TABLE = "sweep.csv"


@dataclass(frozen=True)
class Swept:
    """What came of a sweep.

    rows: the settings, best first.  stopped_by: the signal that ended it before all was trained.
    """

    path: Path
    rows: list[Row]
    stopped_by: int | None

    @property
    def exit_code(self) -> int:
        """128 + the signal, or 0 where every run finished, else the largest code of a run."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return max(one.code for row in self.rows for one in row.outcomes if one is not None)


def train_and_compare(
    sweep: Sweep, out: str | None, *, jobs: int, announce: Callable[[str], None]
) -> Swept:
    """Train the runs that are not finished, `jobs` at a time, and compare the settings.

    `out` may be the folder of an earlier sweep; None stands for a new one,
    directory/NAME-sweep/TIME.  It gets a run folder for each run, and sweep.csv, written anew with
    every run that ends.  `announce` is given a line for each of them.

    Raises ConfigError where `out` cannot be used, and CheckpointError where it cannot be written.
    """
    outcomes: dict[str, Outcome] = {}

    def rows() -> list[Row]:
        names = [[run.folder for run in sweep.runs_of(setting)] for setting in sweep.settings]
        found = [[outcomes.get(name) for name in of_setting] for of_setting in names]
        return compare(sweep.settings, found, sweep.by)

    def ended(run: PlannedRun, outcome: Outcome) -> None:
        outcomes[run.folder] = outcome
        folder.write_text(folder.path / TABLE, csv_text(rows()))
        announce(f"{len(outcomes)}/{len(sweep.runs)}  {run.title}  {_line(outcome)}")

    with _open(sweep, out) as folder:
        folder.write_text(folder.path / TABLE, csv_text(rows()))
        stopped_by = train_all(sweep.runs, folder.path, jobs=jobs, ended=ended)
        return Swept(folder.path, rows(), stopped_by)


def _open(sweep: Sweep, out: str | None) -> RunFolder:
    """Lock the sweep's folder, once it is known that what it holds goes with this sweep."""
    if out is None or not os.path.exists(Path(out, TABLE)):
        return RunFolder.create(sweep.directory, f"{sweep.name}-sweep", out)
    wrong = []
    for run in sweep.runs:
        file = RunFolder(Path(out, run.folder)).config
        if file.exists():
            for key, (before, now) in differences(load_config(file), run.config).items():
                if changes_bits(key):
                    wrong.append(f"{file.parent}: {key} was {before} and is {now} now")
    if wrong:
        raise fail([f"{out} holds runs of other settings; choose another folder:", *wrong])
    return RunFolder.open(Path(out))


def _line(outcome: Outcome) -> str:
    """How a run ended, for people who wait."""
    if outcome.code:
        return f"{outcome.status}: {outcome.reason}"
    return f"validation {in_words(outcome.validation)}  {duration(outcome.seconds)}"
