"""`minidl sweep`: several settings, each with several seeds, compared on validation data."""

import itertools
import sys
from collections.abc import Sequence

from minidl import terminal
from minidl.bar import ProgressBar
from minidl.blas import usable_cores
from minidl.commands.arguments import Parser, again, count
from minidl.runs.comparison import SweepRun, table
from minidl.runs.interrupts import signal_name
from minidl.runs.sweep import Sweep, plan
from minidl.terminal import say, warn


def sweep(arguments: Sequence[str]) -> int:
    """Train every combination of some settings with several seeds; compare them."""
    parser = Parser(
        "sweep",
        "Train every combination of the settings `key=value,value` with several seeds, and compare "
        "the means of the figure in train.monitor on the VALIDATION data. Each run is a process "
        "with one thread and leaves a run folder; the same command with the same --out trains only "
        "what is not finished. A value may hold commas in brackets or quotes; a key with one value "
        "is set for all runs.",
        epilog="The test set chooses nothing; results.json of each run has its figures.",
    )
    parser.takes_config()
    parser.add_argument(
        "--seeds", metavar="N", type=count, default=5, help="runs a setting (default: 5)"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        default=usable_cores(),
        help="runs at a time (default: the cores)",
    )
    parser.add_argument("--out", metavar="DIR", help="default: runs/NAME-sweep/TIME")
    options = parser.options(arguments)
    path, overrides = parser.config(options.arguments)
    swept = plan(path, overrides, n_seeds=options.seeds)
    numbers, n_runs = itertools.count(1), len(swept.runs)
    with (
        swept.open(options.out),
        ProgressBar(total=n_runs, unit="runs", disable=None) as bar,
    ):

        def ended(run: SweepRun) -> None:
            bar.update()
            warn(outcome_line(f"{next(numbers)}/{n_runs}", run, terminal.width_of(sys.stderr)))

        swept.train(options.jobs, ended)
    if swept.stopped_by is not None:
        out = [] if options.out is not None else ["--out", str(swept.folder.path)]
        warn(
            f"stopped by {signal_name(swept.stopped_by)}; go on with the sweep by\n  "
            + again("sweep", *arguments, *out)
        )
        return swept.exit_code
    say(table(swept.best_first, terminal.width_of(sys.stdout)), end="")
    if swept.config.output.report:
        _write_page(swept)
    say(f"sweep folder: {swept.folder.path}")
    return swept.exit_code


def _write_page(swept: Sweep) -> None:
    """Write report.html of the finished runs, or say why it is not written."""
    try:
        from minidl.report.comparison import FinishedRun, comparison_page  # loads matplotlib

        runs = [
            FinishedRun(run.title(short=True), run.config, run.epochs, run.results)
            for setting in swept.best_first
            for run in setting
            if run.code == 0
        ]
        if runs:
            title = f"Sweep of {swept.config.name}, compared on validation data"
            page = comparison_page(title, runs, test=False)
            swept.folder.write_text(swept.folder.report, page)
    except Exception as error:
        warn(f"report.html is not written: {error}")


def outcome_line(place: str, run: SweepRun, width: int | None) -> str:
    """How a run ended: the longest line that fits into `width` columns, if given."""
    if run.code:
        return terminal.wrapped(f"{place}  {run.title()}  {run.status}: {run.reason}", width)
    figures = terminal.figures_text(run.results, prefix="validation_")
    time, short = terminal.duration(run.results["train_seconds"]), run.title(short=True)
    lines = (
        [place, run.title(), f"validation {figures}", time],
        [place, short, f"validation {figures}", time],
        [place, short, figures, time],
        [place, short, figures],
        [place, short, " ".join(figures.split()[:2])],
        [place, short],
    )
    return terminal.fitting(lines, width)
