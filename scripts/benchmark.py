"""Measure minidl next to the other libraries that are installed, on an idle machine.

From a checkout, after `pip install -e ".[bench]"` (and `".[mpi]"` for `ranks`):

    python scripts/benchmark.py [--out DIR] [--only steps fit ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from bench.cells import GRID
from bench.contenders import CONTENDERS
from bench.measurements import Plan
from bench.results import PARTS, benchmark


def announce(text: str) -> None:
    """Say on stderr what goes on."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Measure what the command line asks for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: a temporary folder")
    for option, known in (("only", PARTS), ("cells", GRID), ("contenders", CONTENDERS)):
        parser.add_argument(
            f"--{option}", metavar="NAME", nargs="+", choices=known, help=f"of {', '.join(known)}"
        )
    scaling = ["ranks", "disk"]
    parser.add_argument(
        "--scaling", dest="only", action="store_const", const=scaling, help="--only ranks disk"
    )
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    options = parser.parse_args(arguments)
    without_mpi = [part for part in PARTS if part != "ranks" or find_spec("mpi4py")]
    parts = options.only or without_mpi
    mnist = Path(os.environ.get("MINIDL_DATA_DIR", ""), "mnist.npz")
    if "mnist" in parts and not mnist.is_file():
        parser.error(f"{mnist}: no such file; set MINIDL_DATA_DIR to the folder of mnist.npz")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    if coretype := os.environ.get("OPENBLAS_CORETYPE"):
        announce(f"OPENBLAS_CORETYPE={coretype} is set: NumPy's matrix products may be slower")
    asked = [CONTENDERS[name] for name in options.contenders or CONTENDERS]
    chosen = [one for one in asked if one.version is not None]
    if missing := [one.name for one in asked if one.version is None]:
        announce(f"not installed, left out: {', '.join(missing)}")
    cells = [GRID[name] for name in options.cells or GRID]
    plan = Plan(chosen, cells, options.repeats, mnist)
    folder = options.out or Path(tempfile.mkdtemp(prefix="benchmark-"))
    print(benchmark(folder, plan, parts, announce), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
