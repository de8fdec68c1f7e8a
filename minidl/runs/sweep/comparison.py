"""The settings of a sweep side by side: means and deviations over the seeds, the best first."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan

import numpy as np

from minidl.best import LOWER_IS_BETTER
from minidl.errors import DivergenceError
from minidl.runs.interrupts import SIGNALS
from minidl.runs.sweep.planning import Setting

INTERRUPTED = [128 + number for number in SIGNALS]


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

    @property
    def status(self) -> str:
        """In a word."""
        if self.code in (0, DivergenceError.exit_code):
            return "diverged" if self.code else "finished"
        return "interrupted" if self.code in INTERRUPTED else "failed"


@dataclass(frozen=True)
class Spread:
    """The mean of some figures, and their sample standard deviation (n - 1), None for a single one.

    >>> str(Spread.of([1.0, 3.0])), str(Spread.of([2.0]))
    ('2.0000 +- 1.4142', '2.0000')
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """That of at least one figure."""
        with np.errstate(all="ignore"):  # of a figure that is not finite
            deviation = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
            return cls(float(np.mean(figures)), deviation)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f" +- {self.deviation:.4f}")


@dataclass(frozen=True)
class Row:
    """One setting and what came of its runs, None for one that has not ended yet."""

    values: Mapping[str, str]
    outcomes: Sequence[Outcome | None]

    @property
    def finished(self) -> list[Outcome]:
        """The outcomes of the runs that were trained to their end."""
        return [outcome for outcome in self.outcomes if outcome is not None and not outcome.code]

    @property
    def validation(self) -> dict[str, Spread]:
        """Each validation figure over the finished runs."""
        return _spreads([outcome.validation for outcome in self.finished])

    @property
    def test(self) -> dict[str, Spread]:
        """Each test figure over the finished runs."""
        return _spreads([outcome.test for outcome in self.finished])

    @property
    def seconds(self) -> Spread | None:
        """The seconds of training of the finished runs."""
        return Spread.of([one.seconds for one in self.finished]) if self.finished else None

    @property
    def unfinished(self) -> str:
        """How many runs did not finish, and the first reason: `1 diverged: training ...`."""
        counts = Counter("not trained" if one is None else one.status for one in self.outcomes)
        del counts["finished"]
        text = ", ".join(f"{count} {status}" for status, count in counts.items())
        reasons = [one.reason for one in self.outcomes if one is not None and one.code]
        return f"{text}: {reasons[0]}" if reasons else text


def compare(
    settings: Sequence[Setting], outcomes: Sequence[Sequence[Outcome | None]], by: str
) -> list[Row]:
    """The settings with the outcomes of their runs, the best by the validation figure `by` first.

    A setting of which every run finished stands before one of which some did: what is trained
    with luck only is not the best. The test figures have no part in it.
    """
    rows = [
        Row(setting.values, of_setting)
        for setting, of_setting in zip(settings, outcomes, strict=True)
    ]
    sign = 1 if by in LOWER_IS_BETTER else -1

    def place(row: Row) -> tuple[int, float]:
        figure = row.validation[by].mean if row.finished else nan
        n_missing = len(row.outcomes) - len(row.finished)
        return (n_missing, inf if isnan(figure) else sign * figure)

    return sorted(rows, key=place)


def table(rows: Sequence[Row]) -> str:
    """The rows as text: one line a setting, means and deviations of the validation figures."""
    figures = _figures(rows)
    titles = [*rows[0].values, "runs", *(f"validation {name}" for name in figures), "seconds", ""]
    lines = [
        [
            *row.values.values(),
            f"{len(row.finished)}/{len(row.outcomes)}",
            *(str(row.validation.get(name, "-")) for name in figures),
            str(row.seconds or "-"),
            row.unfinished,
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    return "".join(
        "  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in [titles, *lines]
    )


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as a CSV file, all digits kept; empty where there is no figure."""
    figures = [*(f"validation_{name}" for name in _figures(rows)), "train_seconds"]
    titles = [f"{name}_{part}" for name in figures for part in ("mean", "std")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*rows[0].values, "runs", "finished", *titles, "unfinished"])
    for row in rows:
        spreads = {f"validation_{name}": spread for name, spread in row.validation.items()}
        spreads |= {"train_seconds": row.seconds} if row.seconds else {}
        found = [spreads.get(name) for name in figures]
        cells = [cell for one in found for cell in ((one.mean, one.deviation) if one else ("", ""))]
        counts = len(row.outcomes), len(row.finished)
        writer.writerow([*row.values.values(), *counts, *cells, row.unfinished])
    return file.getvalue()


def in_words(figures: Mapping[str, object]) -> str:
    """`loss 0.1234 accuracy 0.9876`, of numbers or spreads."""
    return " ".join(
        f"{name} {figure:.4f}" if isinstance(figure, float) else f"{name} {figure}"
        for name, figure in figures.items()
    )


def _spreads(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    names = figures[0] if figures else ()
    return {name: Spread.of([each[name] for each in figures]) for name in names}


def _figures(rows: Sequence[Row]) -> list[str]:
    """The validation figures that any row has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.validation))
