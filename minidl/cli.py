"""The command line: find the command, run it, and turn its failures into exit codes.

Each command is a file in `minidl/commands/` and is imported only when it is asked for.
"""

import logging
import signal
import sys
from collections.abc import Callable, Sequence

from minidl import startup
from minidl.errors import ConfigError, MinidlError, did_you_mean
from minidl.terminal import aligned, prepare_streams, say, warn

HELP = """\
usage: minidl COMMAND [...]   (minidl COMMAND --help says more)

Train multilayer perceptrons on a CPU.

commands:
"""
OPTIONS = """
options:
  --help     show this text
  --version  show the versions, the BLAS and the kernels in use

exit codes:
  0  done
  1  a check that was asked for failed (gradcheck, train --check)
  2  the config or an argument is wrong
  3  data is missing or unreadable
  4  training diverged
  5  a checkpoint, a model or the output is damaged or cannot be written
  129, 130, 143  stopped by SIGHUP, SIGINT (Ctrl-C) or SIGTERM
  141  the reader of the output closed the pipe
A sweep ends with the largest exit code of its runs.
"""

COMMANDS = {
    "init": "Look at a table, and write a config that trains on it.",
    "convert": "Make a table that is too large for memory readable in pieces.",
    "train": "Train what a config describes, and write a run folder.",
    "evaluate": "Measure a trained model on its test part or on a file.",
    "predict": "Predict the rows of a file with a trained model.",
    "report": "Write the report of a finished run again.",
    "compare": "Put finished runs side by side, in a table and in a page.",
    "sweep": "Train several settings with several seeds, and compare them.",
    "export": "Write a trained model as ONNX, C99 or a NumPy-only file.",
    "gradcheck": "Compare the gradients of a config's model with finite differences.",
    "configs": "List the shipped configs, or copy one to edit it.",
}


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """Import the file of one command alone: some of the others take seconds."""
    if name == "init":
        from minidl.commands.init import init as command
    elif name == "convert":
        from minidl.commands.convert import convert as command
    elif name == "train":
        from minidl.commands.train import train as command
    elif name == "evaluate":
        from minidl.commands.evaluate import evaluate as command
    elif name == "predict":
        from minidl.commands.predict import predict as command
    elif name == "report":
        from minidl.commands.report import report as command
    elif name == "compare":
        from minidl.commands.report import compare as command
    elif name == "sweep":
        from minidl.commands.sweep import sweep as command
    elif name == "export":
        from minidl.commands.export import export as command
    elif name == "gradcheck":
        from minidl.commands.train import gradcheck as command
    else:
        from minidl.commands.configs import configs as command
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        prepare_streams()
        # matplotlib warns where it cannot write to the home folder, and then does without.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        say("", end="")  # whatever argparse wrote
        return code
    except MinidlError as error:
        if str(error):  # nothing where the reader of the output has left
            warn(str(error))
        return error.exit_code
    except MemoryError as error:
        warn(f"not enough memory: {error or 'choose a smaller model or batch'}")
        return ConfigError.exit_code
    except KeyboardInterrupt:
        warn("interrupted")
        return 128 + signal.SIGINT


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        say(HELP + aligned(COMMANDS.items(), "  ") + OPTIONS, end="")
        return 0
    if name == "--version":
        from minidl.runs.machine import describe

        text = "minidl {minidl} (NumPy {numpy}, BLAS {blas}, kernels: {kernels}, Python {python})"
        say(text.format(**describe()))
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise ConfigError(f"minidl: no command {name!r}{hint}")
    command = _command(name)
    startup.end()
    try:
        return command(rest)
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)


if __name__ == "__main__":
    sys.exit(main())
