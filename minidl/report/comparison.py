"""Finished runs side by side: their figures, the settings in which they differ, their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Self

from minidl.config import Config, differences, load_config
from minidl.errors import ConfigError
from minidl.runs.folder import RunFolder

MOST_CURVES = 20


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a finished run holds; epochs, results: see `RunFolder.outcome`."""

    name: str
    config: Config
    epochs: Sequence[Mapping[str, str]]
    results: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run folder.

        Raises ConfigError for a run that is not finished, CheckpointError for damaged results.
        """
        folder = RunFolder(path)
        if not folder.is_finished():
            raise ConfigError(f"{path}: not the folder of a finished run")
        epochs, results = folder.outcome()
        return cls(str(path), load_config(folder.config), epochs, results)


def figures_table(runs: Sequence[FinishedRun], *, test: bool = True) -> list[list[Any]]:
    """Return titles, and then one row a run.

    test: whether to show metrics of the test part; they must not choose among runs.
    """
    monitors = dict.fromkeys(["loss", *(run.config.train.monitor for run in runs)])
    tests = [f"test_{name}" for name in ("loss", "accuracy", "r2")] if test else []
    tests = [name for name in tests if any(name in run.results for run in runs)]
    names = [*(f"validation_{name}" for name in monitors), *tests, "train_seconds"]
    rows = [
        [
            run.name,
            run.results.get("n_parameters", ""),
            f"{run.results.get('best_epoch', '-')} of {run.results.get('epochs', '-')}",
            *(run.results.get(name, nan) for name in names),
        ]
        for run in runs
    ]
    return [["run", "parameters", "best epoch", *(name.replace("_", " ") for name in names)], *rows]


def settings_table(runs: Sequence[FinishedRun]) -> list[list[Any]]:
    """Return the settings in which the runs differ as titles, and then one row a run."""
    against_first = [differences(runs[0].config, run.config) for run in runs]
    first = {key: before for found in against_first for key, (before, _) in found.items()}
    keys = [key for key in first if key not in ("name", "output.directory")]
    rows = [[found.get(key, (None, first[key]))[1] for key in keys] for found in against_first]
    texts = [["-" if value is None else str(value) for value in row] for row in rows]
    return [["setting", *keys], *([run.name, *row] for run, row in zip(runs, texts, strict=True))]


def comparison_page(title: str, runs: Sequence[FinishedRun], *, test: bool = True) -> str:
    """Return the HTML of a page: the tables, and the curves of all runs in one picture each."""
    from minidl.report import figures, page  # the tables alone need no matplotlib

    shown = {run.name: run.epochs for run in runs[:MOST_CURVES]}
    n_shown = f"the first {MOST_CURVES} of " * (len(runs) > MOST_CURVES) + str(len(runs))
    pictures = [
        (
            f"{name.replace('_', ' ')} of {n_shown} runs over the epochs",
            figures.overlaid_curves(shown, name),
        )
        for name in dict.fromkeys(
            ["train_loss", "validation_loss", f"validation_{runs[0].config.train.monitor}"]
        )
        if any(epochs and name in epochs[0] for epochs in shown.values())
    ]
    parts = [page.element("h1", title), page.table(figures_table(runs, test=test))]
    parts.append(page.pictures(pictures))
    settings = settings_table(runs)
    if (n_settings := len(settings[0]) - 1) > len(runs):  # the narrower table is easier to read
        settings = [list(column) for column in zip(*settings, strict=True)]
    if n_settings:
        parts += [page.element("h2", "Settings that differ"), page.table(settings)]
    return page.page(title, parts)
