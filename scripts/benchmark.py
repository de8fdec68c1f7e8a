"""Measure minidl next to the other libraries that are installed, on an idle machine.

From a checkout, after `pip install -e ".[bench]"`:

    python scripts/benchmark.py --out DIR

or, with `pip install -e ".[mpi]"`, how training scales over the ranks of an MPI job:

    python scripts/benchmark.py --scaling
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from bench import scaling
from bench.cells import GRID
from bench.contenders import NAMES, installed
from bench.measurements import Plan
from bench.results import PARTS, benchmark


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of names separated by commas, each of which must be known."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if wrong := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no {wrong[0]!r}; there are {', '.join(known)}")
        return found

    return names


def main(arguments: list[str]) -> int:
    """Measure what the command line asks for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", metavar="DIR", type=Path, help="for the results")
    parser.add_argument(
        "--scaling", action="store_true", help="measure ranks and threads instead, and print them"
    )
    for option, known in (("only", PARTS), ("cells", GRID), ("contenders", NAMES)):
        parser.add_argument(
            f"--{option}",
            metavar="NAME,...",
            type=some_of(known),
            default=[*known],
            help=f"default: {','.join(known)}",
        )
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    options = parser.parse_args(arguments)
    if options.scaling:
        print(scaling.measure(options.repeats), end="")
        return 0
    if options.out is None:
        parser.error("--out DIR is needed for the results")
    mnist = Path(os.environ.get("MINIDL_DATA_DIR", ""), "mnist.npz")
    if "mnist" in options.only and not mnist.is_file():
        parser.error(f"{mnist}: no such file; set MINIDL_DATA_DIR to the folder of mnist.npz")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")

    def announce(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if coretype := os.environ.get("OPENBLAS_CORETYPE"):
        announce(f"OPENBLAS_CORETYPE={coretype} is set: NumPy's matrix products may be slower")
    chosen = installed(options.contenders)
    if missing := [name for name in options.contenders if NAMES[name] not in chosen]:
        announce(f"not installed, left out: {', '.join(missing)}")
    cells = [GRID[name] for name in options.cells]
    plan = Plan(chosen, cells, options.repeats, mnist)
    print(benchmark(options.out, plan, options.only, announce), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
