"""`minidl bench`: minidl next to the other libraries that are installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minidl.benchmark.cells import GRID
from minidl.benchmark.results import PARTS, benchmark, chosen_cells
from minidl.commands.arguments import Parser
from minidl.terminal import say, warn


def bench(arguments: Sequence[str]) -> int:
    """Measure minidl next to the other libraries that are installed."""
    parser = Parser(
        "bench",
        "Measure minidl next to the other libraries that are installed "
        '(pip install "minidl[bench]"), with nothing else running on the machine.',
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="for the results")
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help="%(default)s")
    parser.add_argument("--cells", metavar="A,...", default=",".join(GRID), help="%(default)s")
    parser.add_argument("--contenders", metavar="NAME,...", help="by default all installed")
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    options = parser.parse_args(arguments)
    tables = benchmark(
        options.out,
        parts=options.only.split(","),
        cells=chosen_cells(options.cells.split(",")),
        contenders=None if options.contenders is None else options.contenders.split(","),
        repeats=options.repeats,
        announce=warn,
    )
    say(tables, end="")
    return 0
