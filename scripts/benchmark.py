"""minidl next to other libraries: `python scripts/benchmark.py --out DIR`; see `--help`."""

import sys

from minidl.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
