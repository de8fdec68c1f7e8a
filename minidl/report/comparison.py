"""Finished runs side by side: a table, the settings in which they differ, curves overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from minidl.config import Config, differences, load_config
from minidl.errors import ConfigError
from minidl.runs.folder import RunFolder

MOST_CURVES = 20


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a finished run holds: its config, metrics.csv and results.json.

    figures: the validation figures of the best epoch, and those of the test part.
    """

    name: str
    config: Config
    epochs: list[dict[str, str]]
    results: dict[str, Any]
    figures: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> FinishedRun:
        """Read a run folder.  Raises ConfigError for a run that is not finished."""
        folder = RunFolder(path)
        if not folder.is_finished():
            raise ConfigError(f"{path}: not the folder of a finished run")
        figures = folder.figures()  # raises CheckpointError for files that cannot be read
        return cls(
            str(path),
            load_config(folder.config),
            folder.metrics.read(),
            folder.read_results(),
            figures,
        )


def figures_table(runs: Sequence[FinishedRun], *, test: bool = True) -> list[list[Any]]:
    """Return titles, and then one row a run.

    test: whether to show metrics of the test part; they must not choose among runs.
    """
    monitors = dict.fromkeys(["loss", *(run.config.train.monitor for run in runs)])
    validation = [f"validation_{name}" for name in monitors]
    tests = [f"test_{name}" for name in ("loss", "accuracy", "r2")] if test else []
    tests = [name for name in tests if any(name in run.results for run in runs)]
    titles = ["run", "parameters", "best epoch", *validation, *tests, "train seconds"]
    rows = [
        [
            run.name,
            run.results.get("n_parameters", ""),
            f"{run.results.get('best_epoch', '-')} of {run.results.get('epochs', '-')}",
            *(run.figures.get(name, nan) for name in validation),
            *(run.results.get(name, nan) for name in (*tests, "train_seconds")),
        ]
        for run in runs
    ]
    return [[title.replace("_", " ") for title in titles], *rows]


def settings_table(runs: Sequence[FinishedRun]) -> list[list[Any]]:
    """Return titles, and then a setting in which the runs differ a row; nothing if they do not."""
    against_first = [differences(runs[0].config, run.config) for run in runs]
    first = {key: before for found in against_first for key, (before, _) in found.items()}
    rows = [
        [key, *(_text(found[key][1] if key in found else first[key]) for found in against_first)]
        for key in first
        if key not in ("name", "output.directory")
    ]
    return [["setting", *(run.name for run in runs)], *rows] if rows else []


def comparison_page(title: str, runs: Sequence[FinishedRun], *, test: bool = True) -> str:
    """Return the HTML of a page: the table, and the curves of all runs in one picture each."""
    from minidl.report import figures, page  # the tables alone need no matplotlib

    shown = {run.name: run.epochs for run in runs[:MOST_CURVES]}
    n_shown = f"the first {MOST_CURVES} of " * (len(runs) > MOST_CURVES) + str(len(runs))
    monitor = runs[0].config.train.monitor
    columns = dict.fromkeys(["train_loss", "validation_loss", f"validation_{monitor}"])
    pictures = [
        (
            f"{name.replace('_', ' ')} of {n_shown} runs over the epochs",
            figures.overlaid_curves(shown, name),
        )
        for name in columns
        if any(epochs and name in epochs[0] for epochs in shown.values())
    ]
    parts = [page.element("h1", title), page.table(figures_table(runs, test=test))]
    parts.append(page.pictures(pictures))
    if rows := settings_table(runs):
        parts += [page.element("h2", "Settings that differ"), page.table(rows)]
    return page.page(title, parts)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
