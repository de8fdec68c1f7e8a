"""`minidl sweep`: several settings, each with several seeds, compared on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minidl.blas import usable_cores
from minidl.commands.arguments import Parser, again, count
from minidl.runs.comparison import Outcome, spread_text, table
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import signal_name
from minidl.runs.plan import PlannedRun, plan
from minidl.runs.sweep import Sweep
from minidl.terminal import ProgressBar, duration, figures_text, say, warn


def sweep(arguments: Sequence[str]) -> int:
    """Train every combination of some settings with several seeds; compare them."""
    parser = Parser(
        "sweep",
        "Train every combination of the settings `key=value,value` with several seeds, and compare "
        "their means on the VALIDATION data. Each run is a process with one thread and leaves a "
        "run folder; the same command with the same --out trains only what is not finished. A "
        "value may hold commas in brackets or quotes; a key with one value is set for all runs.",
        epilog="The test set chooses nothing: --test shows it for the setting that came first, and "
        "for no other.",
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
    parser.add_argument(
        "--by", metavar="FIGURE", help="loss or a metric; the best first (default: train.monitor)"
    )
    parser.add_argument("--out", metavar="DIR", help="default: runs/NAME-sweep/TIME")
    parser.add_argument(
        "--test", action="store_true", help="show the test figures of the first setting as well"
    )
    options = parser.options(arguments)
    path, overrides = parser.config(options.arguments)
    planned = plan(path, overrides, n_seeds=options.seeds, by=options.by)
    n_runs = len(planned.runs)
    with (
        Sweep.open(planned, options.out) as swept,
        ProgressBar(total=n_runs, unit="runs", disable=not ProgressBar.is_possible()) as bar,
    ):

        def ended(run: PlannedRun, outcome: Outcome) -> None:
            bar.update()
            warn(f"{swept.n_ended}/{n_runs}  {run.title}  {_outcome_text(outcome)}")

        swept.train(options.jobs, ended)
    if swept.stopped_by is not None:
        out = [] if options.out is not None else ["--out", str(swept.path)]
        warn(
            f"stopped by {signal_name(swept.stopped_by)}; go on with the sweep by\n  "
            + again("sweep", *arguments, *out)
        )
        return swept.exit_code
    rows = swept.rows
    say(table(rows), end="")
    if options.test and (test := rows[0].spreads("test")):
        figures = " ".join(f"{name} {spread_text(value)}" for name, value in test.items())
        say(f"test, of the first setting alone: {figures}")
    if planned.report:
        _write_page(swept)
    say(f"sweep folder: {swept.path}")
    return swept.exit_code


def _write_page(swept: Sweep) -> None:
    """Write report.html of the finished runs, or say why it is not written."""
    try:
        from minidl.report.comparison import FinishedRun, comparison_page  # loads matplotlib

        folders = {run.title: RunFolder(swept.path / run.folder) for run in swept.plan.runs}
        runs = [
            replace(FinishedRun.read(folder.path), name=title)
            for title, folder in folders.items()
            if folder.is_finished()
        ]
        if runs:
            title = f"Sweep of {swept.plan.name}, compared on validation data"
            page = comparison_page(title, runs, test=False)
            RunFolder(swept.path).write_text(swept.path / "report.html", page)
    except Exception as error:
        warn(f"report.html is not written: {error}")


def _outcome_text(outcome: Outcome) -> str:
    """How a run ended, for people who wait."""
    if outcome.code:
        return f"{outcome.status}: {outcome.reason}"
    return f"validation {figures_text(outcome.validation)}  {duration(outcome.seconds)}"
