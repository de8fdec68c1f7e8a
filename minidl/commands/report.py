"""`minidl report` and `minidl compare`: pages about finished runs."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidl.atomic import replace_file
from minidl.commands.arguments import Parser, refuse_existing
from minidl.errors import ConfigError
from minidl.report.comparison import FinishedRun, comparison_page, figures_table, settings_table
from minidl.runs.folder import RunFolder
from minidl.terminal import DEFAULT_WIDTH, aligned, cell_text, say, width_of

LONGEST = 14  # text in a table that does not fit the terminal


def report(arguments: Sequence[str]) -> int:
    """Write report.html of a finished run again, from its files and its data."""
    from minidl.report.run import write_report  # needs matplotlib, which `compare` does without

    parser = Parser("report", "Write report.html into the folder of a finished run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of the run")
    with RunFolder.open(parser.parse_args(arguments).run) as folder:
        if not folder.is_finished():
            raise ConfigError(
                f"{folder.path}: is not a finished run, which has model.npz, results.json and a "
                "run.json that says so"
            )
        write_report(folder)
    say(f"report: {folder.report}")
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Put finished runs side by side: a table here, and with --out a page with their curves."""
    parser = Parser("compare", "Put finished runs side by side, in tables and in a page of curves.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of finished runs")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write an HTML page")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    options = parser.parse_args(arguments)
    if options.out is not None:
        refuse_existing(options.out, force=options.force)
    runs = [FinishedRun.read(Path(path)) for path in options.runs]
    text = _tables(runs)
    if max(map(len, text.splitlines())) > (width_of(sys.stdout) or DEFAULT_WIDTH):
        numbered = [replace(run, name=str(number)) for number, run in enumerate(runs, start=1)]
        legend = aligned((short.name, run.name) for short, run in zip(numbered, runs, strict=True))
        text = f"{legend}\n{_tables(numbered, LONGEST)}"
    say(text, end="")
    if options.out is not None:
        page = comparison_page("Comparison of runs", runs)
        replace_file(options.out, lambda file: file.write(page.encode()))
        say(f"page: {options.out}")
    return 0


def _tables(runs: Sequence[FinishedRun], longest: int | None = None) -> str:
    """The figures, their titles in two lines, and a line for each setting that differs."""

    def cell(value: Any) -> str:
        text = cell_text(value)
        return text if longest is None or len(text) <= longest else f"...{text[3 - longest :]}"

    titles, *figures = figures_table(runs)
    above, _, below = zip(*(title.rpartition(" ") for title in titles), strict=True)
    tables: list[list[Any]] = [[above, below, *figures], [*zip(*settings_table(runs), strict=True)]]
    return "\n".join(
        aligned(([row[0], *map(cell, row[1:])] for row in rows), right=True)
        for rows in tables
        if len(rows) > 1
    )
