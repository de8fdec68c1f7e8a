"""Ctrl-C while the command line is still importing ends the process at once, quietly, with 130.

Python would raise KeyboardInterrupt somewhere inside an import. That prints a long traceback, or
nothing at all where the code that is being imported ignores it. `minidl/__init__.py` imports this
module first. Only a process that was started as the command line is changed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

PROGRAMS = ("minidl", "minidl.exe", "minidl-script.py")
MODULES = ("minidl", "minidl.__main__", "minidl.cli")
SCRIPT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "scripts", "train.py")


def quit_quietly(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """End the process with the exit code of a signal, without a word."""
    os._exit(128 + number)


def is_command_line() -> bool:
    """Whether it was started by `minidl`, `python -m minidl` or `python scripts/train.py`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # as long as Python looks for the module
        options = sys.orig_argv[1:]
        return "-m" in options and options[options.index("-m") + 1] in MODULES
    return os.path.basename(program) in PROGRAMS or os.path.realpath(program) == SCRIPT


def begin() -> None:
    """Let Ctrl-C end the process quietly, unless it is handled or ignored already."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, quit_quietly)


def end() -> None:
    """Give Ctrl-C its usual effect back: everything is imported."""
    if signal.getsignal(signal.SIGINT) is quit_quietly:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command_line():
    begin()
