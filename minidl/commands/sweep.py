"""`minidl sweep`: several settings, each with several seeds, compared on validation data."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from minidl.blas import usable_cores
from minidl.commands.arguments import Parser, again, count
from minidl.runs.sweep.comparison import in_words, table
from minidl.runs.sweep.planning import plan
from minidl.runs.sweep.sweeping import train_and_compare
from minidl.terminal import say, warn


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
    swept = train_and_compare(planned, options.out, jobs=options.jobs, announce=warn)
    if swept.stopped_by is not None:
        out = [] if options.out is not None else ["--out", str(swept.path)]
        warn(
            f"stopped by {signal.Signals(swept.stopped_by).name}; go on with the sweep by\n  "
            + again("sweep", *arguments, *out)
        )
        return swept.exit_code
    say(table(swept.rows), end="")
    if options.test and swept.rows[0].test:
        say(f"test, of the first setting alone: {in_words(swept.rows[0].test)}")
    say(f"sweep folder: {swept.path}")
    return swept.exit_code
