"""The settings of a sweep side by side: means and deviations over the seeds, the best first."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan
from typing import Any, TypeAlias

import numpy as np

from minidl.config import Config
from minidl.errors import DivergenceError
from minidl.losses import LOWER_IS_BETTER
from minidl.runs.interrupts import SIGNALS
from minidl.terminal import aligned

INTERRUPTED = [128 + number for number in SIGNALS]
FIGURES = ("validation_", "train_seconds")  # those of the test part choose nothing
LONGEST_NAME = 120


@dataclass
class SweepRun:
    """One run of a sweep: a setting with one seed, and how it ended.

    values: those of the keys that vary, as they were typed.  config: resolved; the run is training
    from it.  code: the exit code, None for a run that has not ended.  reason: one line for a run
    that did not finish.  epochs, results: of a finished run, see `RunFolder.outcome`.
    """

    values: Mapping[str, str]
    config: Config
    code: int | None = None
    reason: str = ""
    epochs: Sequence[Mapping[str, str]] = ()
    results: Mapping[str, Any] = field(default_factory=dict)

    def title(self, *, short: bool = False) -> str:
        """The setting and the seed, for people; short: with the last word of each key."""
        keys = [key.split(".")[-1] if short else key for key in self.values]
        values = (f"{key}={value}" for key, value in zip(keys, self.values.values(), strict=True))
        return " ".join([*values, f"seed={self.config.seed}"])

    @property
    def folder(self) -> str:
        """The name of its folder, of letters, digits, '.', '_' and '-' only.

        It depends on no other setting, so that a sweep of more values finds the former runs.
        """
        text = "_".join(f"{key}-{value}" for key, value in self.values.items())
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:LONGEST_NAME]
        if name != text:  # another text may give the same
            name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        return "_".join(filter(None, [name, f"seed-{self.config.seed}"]))

    @property
    def status(self) -> str:
        """The end in a word."""
        words = {None: "not trained", 0: "finished", DivergenceError.exit_code: "diverged"}
        return words.get(self.code, "interrupted" if self.code in INTERRUPTED else "failed")


Setting: TypeAlias = Sequence[SweepRun]
"""The runs of one setting, one for each seed."""


def n_finished(setting: Setting) -> int:
    """How many runs of a setting were trained to their end."""
    return sum(run.code == 0 for run in setting)


def spreads(setting: Setting) -> dict[str, tuple[float, float | None]]:
    """The mean of each figure over the finished runs, and the sample standard deviation (n - 1).

    The figures are those of the validation part, and the time. The deviation is None for one run.
    """
    found = {}
    finished = [run.results for run in setting if run.code == 0]
    names = [name for results in finished[:1] for name in results if name.startswith(FIGURES)]
    with np.errstate(all="ignore"):  # a figure may be infinite
        for name in names:
            values = [results[name] for results in finished]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found[name] = float(np.mean(values)), deviation
    return found


def unfinished(setting: Setting) -> str:
    """How many runs did not finish, and the first reason: `1 diverged: training ...`."""
    counts = Counter(run.status for run in setting if run.code != 0)
    text = ", ".join(f"{count} {status}" for status, count in counts.items())
    reasons = [run.reason for run in setting if run.code]
    return f"{text}: {reasons[0]}" if reasons else text


def best_first(settings: Sequence[Setting], by: str) -> list[Setting]:
    """The settings in the order of the mean of the validation figure `by`, the best first.

    Settings of which every run finished come before the others.
    """
    sign = 1 if by in LOWER_IS_BETTER else -1

    def place(setting: Setting) -> tuple[int, float]:
        mean, _ = spreads(setting).get(f"validation_{by}", (nan, None))
        return len(setting) - n_finished(setting), inf if isnan(mean) else sign * mean

    return sorted(settings, key=place)


def table(settings: Sequence[Setting], width: int | None = None) -> str:
    """The settings as text: one line each, means and deviations of the validation figures.

    width: of the terminal, which may have no room for whole keys and for the last figures.
    """
    names = _compared(settings)
    titles = [name.replace("validation_", "validation ").replace("train_", "") for name in names]
    keys = [key if width is None else key.split(".")[-1] for key in settings[0][0].values]
    lines = [[*keys, "runs", *titles, ""]]
    for setting in settings:
        figures = [spreads(setting).get(name, ()) for name in names]
        cells = [" +- ".join(f"{x:.4f}" for x in each if x is not None) or "-" for each in figures]
        runs = f"{n_finished(setting)}/{len(setting)}"
        lines.append([*setting[0].values.values(), runs, *cells, unfinished(setting)])
    return aligned(lines, width=width)


def csv_text(settings: Sequence[Setting]) -> str:
    """The settings as a CSV file, all digits kept; empty where there is no figure."""
    names = _compared(settings)
    figures = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    lines: list[list[object]] = [
        [*settings[0][0].values, "runs", "finished", *figures, "unfinished"]
    ]
    for setting in settings:
        found, values = spreads(setting), setting[0].values.values()
        cells = [cell for name in names for cell in found.get(name, ("", ""))]
        lines.append([*values, len(setting), n_finished(setting), *cells, unfinished(setting)])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _compared(settings: Sequence[Setting]) -> list[str]:
    """The names of all figures, the time last."""
    names = dict.fromkeys(name for setting in settings for name in spreads(setting))
    return [*(name for name in names if name != "train_seconds"), "train_seconds"]
