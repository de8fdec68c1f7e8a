"""The expected failures, each with the exit code of the command line.

A command that is ended by one of these prints its message and no traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MinidlError(Exception):
    """Base of every expected failure; the message says what is wrong, where, and what to do."""

    exit_code: int = 2


class ConfigError(MinidlError):
    """A config or an argument is wrong."""

    exit_code = 2


class DataError(MinidlError):
    """Data is missing, unreadable, or cannot be used for what was asked."""

    exit_code = 3


class DivergenceError(MinidlError):
    """Training produced a number that is not finite."""

    exit_code = 4


class CheckpointError(MinidlError):
    """A checkpoint or model file is damaged, forged, or of a newer format."""

    exit_code = 5


class ParameterError(ValueError):
    """An argument is wrong; `parameter` names it.

    A ValueError, so that library users may catch it as such. A config finds the place of the
    argument by `parameter`, never by the words of the message.
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter} {problem}")
        self.parameter = parameter


def require(parameter: str, value: object, holds: bool, expected: str) -> None:
    """Raise ParameterError unless `holds`: "<parameter> must be <expected>, got <value>"."""
    if not holds:
        shown = repr(value) if isinstance(value, str) else value
        raise ParameterError(parameter, f"must be {expected}, got {shown}")


def require_instance(parameter: str, value: object, kind: type) -> None:
    """Raise ParameterError unless `value` is an object of `kind`, and not a class."""
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        problem = f"got the class {value.__name__}; write {value.__name__}(...)"
    else:
        problem = f"got {type(value).__name__}"
    raise ParameterError(parameter, f"must be an object of {kind.__name__}, {problem}")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or an empty text."""
    names = {name.casefold(): name for name in known}
    if isinstance(word, str) and len(word) <= 64:
        for near in get_close_matches(word.casefold(), names, 1):
            return f"; did you mean {names[near]!r}?"
    return ""
