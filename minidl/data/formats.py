"""How a text file writes a table: given, or told from its first lines."""

import codecs
import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from minidl.data.cells import number, signed_number
from minidl.errors import DataError, require

FRAMES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")  # files that are no text
SVMLIGHT = (".svm", ".svmlight", ".libsvm")
NO_TABLES = (".npz", ".npy", *SVMLIGHT)  # as the endings of files tell
SAMPLE = 2**18  # bytes from which the format of a file is told
LINES = 1000  # of the sample, at most
DELIMITERS = ",;\t|"
COMMENTS = ("#", "sep=")  # the second is Excel's, above all


@dataclass(frozen=True)
class Format:
    """How a text file writes a table.

    delimiter: one character.  encoding: of the text; a byte order mark is passed over.
    header: whether the first line names the columns; else they are column_1, column_2, ...
    decimal: "." or ",".  missing: further texts that mark a gap.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    header: bool = True
    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        single = len(self.delimiter) == 1 and self.delimiter not in '"\r\n\0'
        require("delimiter", repr(self.delimiter), single, "one character")
        require("decimal", repr(self.decimal), self.decimal in (".", ","), "'.' or ','")
        differ = self.delimiter != self.decimal
        require("delimiter", repr(self.delimiter), differ, "another character than the decimal")
        try:
            known = bool("a".encode(self.encoding))
        except (LookupError, ValueError):
            known = False
        require("encoding", repr(self.encoding), known, "the name of a text encoding")


def open_data(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a data file for reading, gzipped or not.  Raises DataError unless it is a regular file.

    Devices, pipes and sockets have no end, and files of /proc no size: they are refused.
    """
    try:
        file = open(os.path.expanduser(path), "rb", opener=_opened)
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            if file.peek(2)[:2] != b"\x1f\x8b":
                return file
            unzipped = _Unzipped(fileobj=file)
            unzipped.myfileobj = file  # type: ignore[assignment]  # closed with it
            return unzipped  # type: ignore[return-value]
        file.close()
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    raise DataError(f"{path}: {'is empty' if stat.S_ISREG(status.st_mode) else 'is not a file'}")


class _Unzipped(gzip.GzipFile):
    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.close()
        if isinstance(error, OSError | EOFError | zlib.error):
            raise DataError(f"{self.name}: cannot be read: {error}") from error


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer


def detect_format(path: str, target: str | None = None) -> Format:
    """Tell the delimiter, the encoding, the decimal mark and the header of a text file.

    target: the name of a column, if known: a first line that holds it is a header.
    """
    if path.lower().endswith(FRAMES):
        return Format()
    try:
        with open_data(path) as file:
            data = file.read(SAMPLE)
            if len(data) == SAMPLE:
                data = data[: data.rfind(b"\n") + 1] or data
        encoding = encoding_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = data.decode(encoding, "replace").lstrip("\ufeff").splitlines()
    lines = [line for line in lines[:LINES] if line.strip()]
    table = [line for line in lines if not line.startswith(COMMENTS)]
    delimiter = max(DELIMITERS, key=lambda mark: _fits(table, mark))
    if not (rows := rows_of(lines[n_comments(lines, delimiter) :], delimiter)):
        raise DataError(f"{path}: is no text of rows and columns")
    cells = [cell for row in rows[1:] for cell in row]
    decimal = "." if delimiter == "," else decimal_of(cells, ".")

    def is_plain(j: int) -> bool:
        return all(number(row[j], decimal) is not None for row in rows[:20] if j < len(row))

    header = target in rows[0] or len(rows) == 1 or not any(map(is_plain, range(len(rows[0]))))
    return Format(delimiter, encoding, header, decimal)  # type: ignore[arg-type]


def decimal_of(cells: Sequence[str], usual: str) -> str:
    """Tell the decimal mark from cells that are numbers with one only; `usual` if they do not."""

    def n_with(mark: str, other: str) -> int:
        marked = (cell for cell in cells if mark in cell and signed_number(cell, other) is None)
        return sum(signed_number(cell, mark) is not None for cell in marked)

    commas, points = n_with(",", "."), n_with(".", ",")
    return usual if commas == points else "," if commas > points else "."


def encoding_of(path: str, usual: str = "utf-8") -> str:
    """Tell the encoding of a text file: UTF-8 or UTF-16 where it is that for sure, else `usual`.

    Where `usual` is one of those two and the file is not, it is cp1252 or latin-1.
    """
    with open_data(path) as file:
        data = file.read(SAMPLE)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in data:
        return usual  # reading names the line
    is_unicode = codecs.lookup(usual).name.startswith(("utf-8", "utf-16"))
    if data.isascii() and not is_unicode:
        return usual
    with open_data(path) as file:
        text = io.TextIOWrapper(file, "utf-8")
        try:
            while text.read(2**20):
                pass
        except UnicodeDecodeError:
            if not is_unicode:
                return usual
            odd = {*data} & {*range(0x80, 0xA0)}  # in Latin-1 these are no characters
            return "cp1252" if odd and not odd & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"
    return "utf-8"


def _fits(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """How well a delimiter divides the lines: the share that has the cells of the first."""
    counts = [*map(len, rows_of(lines, delimiter)), 1]
    n = counts[0]
    return (counts.count(n) / len(counts), n) if n > 1 else (0.0, 0)


def n_comments(lines: Sequence[str], delimiter: str) -> int:
    """Return how many lines at the top begin with `COMMENTS` and hold no names.

    A last one with "#" names the columns if it has as many cells as the line below it.
    """
    n = next((i for i, line in enumerate(lines) if not line.startswith(COMMENTS)), len(lines))
    widths = {*map(len, rows_of(lines[n - 1 : n + 1], delimiter))}
    return n - 1 if n and len(widths) == 1 and lines[n - 1][0] == "#" else n


def rows_of(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the cells of lines, stripped; no rows where the lines are no table."""
    try:
        read = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in read]
    except csv.Error:
        return []
