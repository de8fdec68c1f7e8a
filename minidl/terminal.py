"""What the command line writes: text without control characters, figures, durations."""

import errno
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TextIO

from minidl.errors import MinidlError

DEFAULT_WIDTH = 80
# Metrics that a line has no room for; metrics.csv and results.json hold them.
IN_FILES = {"balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "brier"}
# Control characters but tab and newline, marks that reorder text, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class OutputError(MinidlError):
    """Standard output cannot be written; there is no message where nobody reads it any more."""

    def __init__(self, message: str = "", exit_code: int = 5) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def printable(text: str) -> str:
    """The text with what could control a terminal written as escapes.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say(text: str, *, end: str = "\n") -> None:
    """Write a result to standard output, at once. Raises OutputError."""
    with _output_errors(), _bars_cleared():
        sys.stdout.write(printable(text) + end)
        sys.stdout.flush()


def _bars_cleared() -> AbstractContextManager[None]:
    """Take the progress bars away while a line is written; without tqdm there are none."""
    tqdm = sys.modules.get("tqdm")
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode()


def put_data(text: str) -> None:
    """Write data to standard output as UTF-8: as it is, unless a terminal shows it."""
    if sys.stdout.isatty():
        say(text, end="")
        return
    with _output_errors():
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    """Turn what writing to standard output raises into an OutputError."""
    try:
        yield
    except OSError as error:
        discard(sys.stdout)
        if error.errno in (errno.EPIPE, errno.EINVAL):  # Windows says EINVAL
            raise OutputError(exit_code=141) from error  # as if ended by SIGPIPE
        if error.errno == errno.EIO:  # the terminal was closed
            raise OutputError(exit_code=129) from error  # as if ended by SIGHUP
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def warn(text: str) -> None:
    """Write a message to standard error, at once; nothing happens where it cannot be written."""
    try:
        with _bars_cleared():
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def prepare_streams() -> None:
    """Make the standard streams usable: none closed, no output strict about its encoding."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed one would be given to the next file that is opened
    os.close(descriptor)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, so that Python does not fail at exit."""
    with suppress(OSError, ValueError):  # a stream without a file
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, stream.fileno())
        os.close(target)


def width_of(stream: TextIO) -> int | None:
    """The columns of the terminal behind a stream; None where it is none."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def figures_text(figures: Mapping[str, float], monitor: str = "loss", prefix: str = "") -> str:
    """Figures as text: the usual ones and the monitored one; the files of a run hold them all.

    prefix: of the names of the figures that are meant; it is not shown.

    >>> figures_text({"test_loss": 0.12345, "test_accuracy": 1.0, "epochs": 2}, prefix="test_")
    'loss 0.1235 accuracy 1.0000'
    """
    meant = {name.removeprefix(prefix): x for name, x in figures.items() if name.startswith(prefix)}
    shown = {name: x for name, x in meant.items() if name not in IN_FILES or name == monitor}
    return " ".join(f"{name} {figure:.4f}" for name, figure in shown.items())


def fitting(lines: Iterable[Sequence[str]], width: int | None) -> str:
    """The first of some lines, each given in parts, that fits into `width` columns, if given."""
    joined = ["  ".join(parts) for parts in lines]
    fits = (line for line in joined if width is None or len(line) < width)
    return next(fits, joined[-1][:width])


def aligned(
    lines: Iterable[Sequence[str]],
    before: str = "",
    *,
    right: bool = False,
    width: int | None = None,
) -> str:
    """Rows of cells as columns, each line after `before`; all but the first to the right, if so.

    Where they are wider than `width`, if given, the last columns are left out.

    >>> aligned([("a", "10"), ("bb", "2")], right=True)
    'a   10\\nbb   2\\n'
    """
    rows = [[printable(cell).replace("\n", "\\n") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + 2 * len(widths) - 2 >= width and len(widths) > 2:
        widths.pop()
    text = ""
    for first, *others in rows:
        cells = zip(others, widths[1:], strict=False)  # without the columns left out
        filled = (cell.rjust(n) if right else cell.ljust(n) for cell, n in cells)
        text += before + "  ".join([first.ljust(widths[0]), *filled]).rstrip() + "\n"
    return text


def cell_text(value: object) -> str:
    """A cell of a table as text: a float with four digits, NaN as "-".

    >>> cell_text(0.5), cell_text(float("nan")), cell_text(3)
    ('0.5000', '-', '3')
    """
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:#.4g}"


def wrapped(text: str, width: int | None) -> str:
    """The text in lines of at most `width` columns, if given, broken between words."""
    if width is None:
        return text
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """A time in words, with two to three digits.

    >>> duration(0.0031), duration(1.234), duration(125), duration(7500)
    ('3.1 ms', '1.23 s', '2 min 5 s', '2 h 5 min')
    """
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
