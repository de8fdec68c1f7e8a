"""Ctrl-C while the command line is importing ends the process at once, quietly, with 130.

Python would raise KeyboardInterrupt somewhere inside an import. That prints a long traceback, or
nothing at all where the code that is being imported ignores it. `minidl/__init__.py` imports this
module first. Only a process that was started as the command line is changed.
"""

# Not through the module `signal`, whose own import would be one in which nothing handles Ctrl-C.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys
from types import FrameType

PROGRAMS = ("minidl", "minidl.exe", "minidl-script.py")
MODULES = ("minidl", "minidl.__main__", "minidl.cli")
SCRIPT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "scripts", "train.py")


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
        signal.signal(signal.SIGINT, _quit)


def end() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, but still end the process quietly in later imports."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, _quit_or_raise)


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _quit_or_raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _quit(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt


if is_command_line():
    begin()
