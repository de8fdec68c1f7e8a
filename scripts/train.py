"""Train what a config describes: `python scripts/train.py configs/mnist.yaml`; see `--help`."""

import sys

from minidl.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
