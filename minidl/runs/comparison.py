"""The settings of a sweep side by side: means and deviations over the seeds, the best first."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan
from typing import TypeAlias

import numpy as np

from minidl.errors import CheckpointError, DivergenceError
from minidl.losses import LOWER_IS_BETTER
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import SIGNALS

INTERRUPTED = [128 + number for number in SIGNALS]

Spread: TypeAlias = tuple[float, float | None]
"""A mean, and the sample standard deviation (n - 1), None for a single figure."""


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    code: its exit code, 0 for one that finished.  reason: one line for one that did not.
    validation, test: the figures of the best weights.  seconds: of training.
    """

    code: int = 0
    reason: str = ""
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of_finished(cls, folder: RunFolder) -> Outcome:
        """Read the outcome of a finished run from its folder."""
        try:
            results = json.loads(folder.results.read_bytes())
            (best,) = (e for e in folder.metrics.read() if int(e["epoch"]) == results["best_epoch"])
            return cls(
                validation=_with_prefix("validation_", best),
                test=_with_prefix("test_", results),
                seconds=float(results["train_seconds"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{folder.path}: its results cannot be read: {error}"
            return cls(CheckpointError.exit_code, reason)

    @property
    def status(self) -> str:
        """In a word."""
        if self.code in (0, DivergenceError.exit_code):
            return "diverged" if self.code else "finished"
        return "interrupted" if self.code in INTERRUPTED else "failed"


@dataclass(frozen=True)
class Row:
    """One setting, and the outcomes of its runs; None for a run that has not ended yet."""

    values: Mapping[str, str]
    outcomes: Sequence[Outcome | None]

    @property
    def finished(self) -> list[Outcome]:
        """The outcomes of the runs that were trained to their end."""
        return [outcome for outcome in self.outcomes if outcome is not None and not outcome.code]

    def spreads(self, part: str) -> dict[str, Spread]:
        """Each figure of a part, "validation" or "test", over the finished runs."""
        figures = [getattr(outcome, part) for outcome in self.finished]
        return {name: spread([each[name] for each in figures]) for name in (figures or [()])[0]}

    @property
    def unfinished(self) -> str:
        """How many runs did not finish, and the first reason: `1 diverged: training ...`."""
        counts = Counter("not trained" if one is None else one.status for one in self.outcomes)
        del counts["finished"]
        text = ", ".join(f"{count} {status}" for status, count in counts.items())
        reasons = [one.reason for one in self.outcomes if one is not None and one.code]
        return f"{text}: {reasons[0]}" if reasons else text


def spread(figures: Sequence[float]) -> Spread:
    """The mean and the deviation of at least one figure."""
    with np.errstate(all="ignore"):  # a figure may be infinite
        deviation = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
        return float(np.mean(figures)), deviation


def spread_text(value: Spread) -> str:
    """The spread as text.

    >>> spread_text(spread([1.0, 3.0])), spread_text(spread([2.0]))
    ('2.0000 +- 1.4142', '2.0000')
    """
    mean, deviation = value
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} +- {deviation:.4f}"


def best_first(rows: Sequence[Row], by: str) -> list[Row]:
    """The rows in the order of the mean of the validation figure `by`, the best first.

    A setting of which every run finished stands before one of which some did not. The test figures
    have no part in it.
    """
    sign = 1 if by in LOWER_IS_BETTER else -1

    def place(row: Row) -> tuple[int, float]:
        mean = row.spreads("validation")[by][0] if row.finished else nan
        return (len(row.outcomes) - len(row.finished), inf if isnan(mean) else sign * mean)

    return sorted(rows, key=place)


def table(rows: Sequence[Row]) -> str:
    """The rows as text: one line a setting, means and deviations of the validation figures."""
    figures = _figures(rows)
    titles = [*rows[0].values, "runs", *(f"validation {name}" for name in figures), "seconds", ""]
    lines = [titles]
    for row in rows:
        spreads = row.spreads("validation")
        seconds = [one.seconds for one in row.finished]
        lines.append(
            [
                *row.values.values(),
                f"{len(row.finished)}/{len(row.outcomes)}",
                *(spread_text(spreads[name]) if spreads else "-" for name in figures),
                spread_text(spread(seconds)) if seconds else "-",
                row.unfinished,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as a CSV file, all digits kept; empty where there is no figure."""
    figures = _figures(rows)
    names = [*(f"validation_{name}" for name in figures), "train_seconds"]
    titles = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*rows[0].values, "runs", "finished", *titles, "unfinished"])
    for row in rows:
        cells: list[object] = [""] * len(titles)
        if row.finished:
            spreads = row.spreads("validation")
            seconds = spread([one.seconds for one in row.finished])
            cells = [
                cell for one in (*(spreads[name] for name in figures), seconds) for cell in one
            ]
        counts = len(row.outcomes), len(row.finished)
        writer.writerow([*row.values.values(), *counts, *cells, row.unfinished])
    return file.getvalue()


def _with_prefix(prefix: str, figures: Mapping[str, object]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): float(value)
        for name, value in figures.items()
        if name.startswith(prefix) and isinstance(value, str | float | int)
    }


def _figures(rows: Sequence[Row]) -> list[str]:
    """The validation figures of the rows, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.spreads("validation")))
