"""What commands share: a parser with short errors, a config with overrides, a command to copy."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from minidl.errors import ConfigError
from minidl.shipped import find_config

SECTIONS = ("name", "seed", "data", "model", "loss", "train", "evaluation", "output")


class Parser(argparse.ArgumentParser):
    """A parser of one command whose error is one line, as all errors are."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"minidl {command}",
            description=description,
            epilog=f"{epilog} Exit codes: see minidl --help.".strip(),
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")

    def takes_config(self) -> None:
        """Let the command have a config and overrides among its arguments."""
        self.add_argument(
            "arguments",
            nargs="*",
            metavar="CONFIG | section.key=value",
            help="a YAML file, the name of a shipped config, or - for standard input; and settings "
            "that override what stands in it",
        )

    def options(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse options and other arguments in any order.

        Not with parse_intermixed_args, which turns a Ctrl-C into a traceback in Python 3.11.
        """
        options, rest = self.parse_known_args(arguments)
        unknown = [one for one in rest if one.startswith("-") and one not in ("-", "--")]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.arguments += [one for one in rest if one != "--"]
        return options

    def config(self, arguments: Sequence[str]) -> tuple[Path, list[str]]:
        """The one argument that names a config, and the overrides."""
        paths = [one for one in arguments if not is_override(one)]
        if len(paths) != 1:
            given = f"got {len(paths)}: {', '.join(paths)}" if paths else "got none"
            raise ConfigError(f"{self.prog}: give one config file, {given}")
        return find_config(paths[0]), [one for one in arguments if is_override(one)]


def refuse_existing(out: Path, *, force: bool) -> None:
    """Raise ConfigError where an output file exists and may not be replaced."""
    if os.path.exists(out) and not os.path.isfile(out):  # such as /dev/null
        raise ConfigError(f"{out}: is not a regular file and is kept; choose another")
    if os.path.lexists(out) and not force:
        raise ConfigError(f"{out}: exists and is kept; choose another, or replace it by --force")


def is_override(argument: str) -> bool:
    """Whether an argument is `key.path=value` and not the path of a file with a `=` in it."""
    key, equals, _ = argument.partition("=")
    if not equals or os.sep in key:
        return False
    return key.split(".")[0].strip() in SECTIONS or not os.path.lexists(argument)


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def again(command: str, *arguments: str) -> str:
    """A command with these arguments, started as this one was, to be copied into the same shell."""
    program = Path(sys.argv[0])
    if program.suffix == ".py":  # of this package, or scripts/train.py
        typed = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        start = [*typed, command] if program.parent.name == "minidl" else typed
    else:
        known = shutil.which(program.name) == os.path.abspath(program)
        start = [program.name if known else str(program), command]
    return shlex.join([*start, *arguments])
