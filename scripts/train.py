"""Train what a config describes: `python scripts/train.py configs/mnist.yaml`; see `--help`."""

import sys

try:
    from minidl.cli import main
except KeyboardInterrupt:  # importing takes long enough for a second thought
    sys.exit(130)

sys.exit(main(["train", *sys.argv[1:]]))
