"""Text files of rows and columns, read in blocks.

A block of plain numbers is parsed at once, lines without quotes are divided at the delimiter, and
other lines go through `csv`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import stat
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from minidl.data.cells import NUMBERS, parsed
from minidl.errors import DataError, require

BLOCK = 3 * 2**14  # bytes, for up to 64 columns; what larger ones hold leaves the cache
MAX_LINE = 2**24  # bytes
DELIMITERS = ",;\t|"
COMMENTS = ("#", "sep=")  # the second is Excel's, above all
MAX_COLUMNS = 100_000
# The first bytes of files that hold a table and are no text.
SIGNATURES = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"PK\x03\x04": "a zip archive, as .xlsx, .ods and .npz are; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save the table as CSV",
    b"\x93NUMPY": "a NumPy array; name it .npy",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"BZh": "compressed with bzip2; uncompress it, or use gzip",
    b"\xfd7zXZ": "compressed with xz; uncompress it, or use gzip",
}


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
        file = open(os.path.expanduser(path), "rb", opener=_open_without_waiting)
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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer


class Block(NamedTuple):
    """Some rows.

    columns: of each its cells, float64 with NaN where they are empty, or texts as they are written.
    lines: the line of the file where each row ends.
    """

    columns: Sequence[np.ndarray | Sequence[str]]
    lines: np.ndarray


class TextTable:
    """A text file open at its first row.

    names: of the columns, stripped; an empty first one, as pandas writes above its index, is "".
    source: what messages call the file.
    as_written: whether all cells are wanted as texts.
    open_end: whether the first line ends with a delimiter, so that the last column has no name.
    """

    def __init__(
        self, file: IO[bytes], form: Format, source: str, *, as_written: bool = False
    ) -> None:
        self.source, self.form, self._as_written = source, form, as_written
        self._line = 0  # how many lines have been read
        self._file, self._encoding = _one_byte_ends(file, form.encoding, source)
        self._pending: deque[str] = deque()
        self._reader = csv.reader(
            iter(self._next_line, None),
            delimiter=form.delimiter,
            skipinitialspace=True,
            strict=True,
        )
        first = self._first_row()
        self.names = [name.strip() for name in first]
        if not form.header:
            self.names = [f"column_{number}" for number in range(1, len(first) + 1)]
        self.open_end = len(first) > 1 and not self.names[-1]
        if self.open_end:
            self.names[-1] = f"column_{len(first)}"
        self._first = None if form.header else (first, self._line)
        self._check_names()

    def blocks(self) -> Iterator[Block]:
        """Yield the rows, block by block.  Raises DataError with the line of what is wrong."""
        if self._first is not None:
            row, line = self._first
            yield Block([[cell] for cell in row], np.array([line]))
        yield from self._careful()  # of a first line that is the whole file, as returns divide it
        size = BLOCK * (1 + len(self.names) // 64)
        while text := self._read(size):
            if (columns := self._divided(text)) is not None:
                start, self._line = self._line + 1, self._line + len(columns[0])
                yield Block(columns, np.arange(start, self._line + 1))
                continue
            self._pending.extend(io.StringIO(text, newline=""))
            yield from self._careful()

    def _divided(self, text: str) -> Sequence[np.ndarray | Sequence[str]] | None:
        """Return the columns of lines without quotes, else None."""
        mark, n_columns = self.form.delimiter, len(self.names)
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        text = text.removesuffix("\n")
        if '"' in text or "\r" in text or (n_columns == 1 and "\n\n" in f"\n{text}\n"):
            return None
        if not self._as_written and (values := self._numbers(text)) is not None:
            return list(values.T)
        rows = [line.split(mark) for line in text.split("\n")]
        return list(zip(*rows, strict=True)) if {*map(len, rows)} == {n_columns} else None

    def _numbers(self, text: str) -> np.ndarray | None:
        """Return lines of plain numbers, (n_lines, n_columns) float64, else None."""
        mark, n_columns = self.form.delimiter, len(self.names)
        if self.form.decimal == ",":
            if "." in text:
                return None
            text = text.replace(",", ".")
        n_lines = text.count("\n") + 1
        between = (mark * (n_columns - 1) + "\n") * n_lines
        if text.encode().translate(None, NUMBERS) != between[:-1].encode():
            return None
        values = parsed(text.replace("\n", ",").replace(mark, ","))
        return None if values is None else values.reshape(n_lines, n_columns)

    def _careful(self) -> Iterator[Block]:
        """Yield the rows of the pending lines, read as `csv` does."""
        rows: list[list[str]] = []
        lines = []
        n_columns = len(self.names)
        while self._pending:
            begun = self._line + 1
            row = self._row(begun)
            if len(row) == n_columns and (n_columns > 1 or row):
                rows.append(row)
                lines.append(self._line)
            elif row and row != [""]:
                raise DataError(self._ragged(row, begun))
        if rows:
            yield Block(list(zip(*rows, strict=True)), np.array(lines))

    def _row(self, begun: int) -> list[str]:
        try:
            return next(self._reader, [])
        except csv.Error as error:
            reason = str(error)
            if "unexpected end" in reason or "field larger" in reason:
                reason = "a quote is opened and never closed"
            elif "expected after" in reason:
                reason += self._advice()
            raise DataError(f"{self.source}:{begun}: {reason}") from error

    def _first_row(self) -> list[str]:
        start = self._file.peek(16) if hasattr(self._file, "peek") else b""
        for signature, kind in SIGNATURES.items():
            if start.startswith(signature):
                raise DataError(f"{self.source}: is not a text file, but {kind}")
        lines = [self._read(0)]
        while lines[-1].startswith(COMMENTS):
            lines.append(self._read(0))
        n, row = n_comments(lines, self.form.delimiter), list[str]()
        self._line += n
        line = "".join(lines[n:])
        while not row:
            if not line:
                raise DataError(f"{self.source}: is empty")
            self._pending.extend(io.StringIO(line, newline=""))
            row = self._row(self._line + 1)
            line = self._read(0) if not row else ""
        if len(row) > MAX_COLUMNS:
            raise DataError(
                f"{self.source}:1: {len(row)} columns; at most {MAX_COLUMNS} can be read"
            )
        return row

    def _check_names(self) -> None:
        where, names = f"{self.source}:{self._line}", self.names
        for number, name in enumerate(names, 1):
            if not name and (number > 1 or len(names) == 1):
                raise DataError(f"{where}: column {number} of {len(names)} has no name")
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"{where}: two columns are named {twice!r}: rename one")

    def _ragged(self, row: Sequence[str], line: int) -> str:
        said = f"{self.source}:{line}: {len(row)} cells, but {len(self.names)} column"
        if len(self.names) > 1:
            return f"{said}s"
        return f"{said}; delete lines above the names of the columns{self._advice()}"

    def _advice(self) -> str:
        return f"; where cells are not divided by {self.form.delimiter!r}, set data.delimiter"

    def _read(self, size: int) -> str:
        """Read so many bytes and the rest of the line, as text."""
        try:
            data: bytes = self._file.read(size)
            if not data.endswith(b"\n") and (data or not size):
                data += self._file.readline(MAX_LINE)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.source}: cannot be read: {error}") from error
        if len(data) >= MAX_LINE + size:
            raise DataError(f"{self.source}:{self._line + 1}: a line of over {MAX_LINE} bytes")
        if b"\0" in data:
            line = self._line + data.count(b"\n", 0, data.index(b"\0")) + 1
            raise DataError(f"{self.source}:{line}: holds a zero byte: it is no text file")
        if self._line == 0:
            data = data.removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            line = self._line + data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.source}:{line}: byte {data[error.start]:#04x} is not {self.form.encoding} "
                "text; set data.encoding, for example to latin-1"
            ) from error

    def _next_line(self) -> str | None:
        """Return the next line for `csv`, which asks for more only within a quoted cell."""
        if not self._pending:
            self._pending.extend(io.StringIO(self._read(0), newline=""))
        if not self._pending:
            return None
        self._line += 1
        return self._pending.popleft()


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


def _one_byte_ends(file: IO[bytes], encoding: str, source: str) -> tuple[Any, str]:
    """A file of UTF-16 as one of UTF-8, whose lines end with one byte; others as they are."""
    if not codecs.lookup(encoding).name.startswith("utf-16"):
        return file, encoding
    try:
        return io.BytesIO(file.read().decode(encoding).encode()), "utf-8"
    except UnicodeError as error:
        raise DataError(f"{source}: is not {encoding} text: {error}") from error
