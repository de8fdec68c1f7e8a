"""Text files of rows and columns, read in blocks that keep no Python string for each cell.

A block of plain numbers is parsed at once; any other goes through `csv`. Both give the same
numbers, rounded correctly as `float` does.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import numpy as np

from minidl.data.cells import blank
from minidl.errors import DataError, require

BLOCK = 2**18  # bytes; larger ones leave the cache and start threads in SciPy
MAX_LINE = 2**24  # bytes
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


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows: numbers, (n_columns, n_rows) float64, or a sequence of texts for each column.

    lines: the last line of the file that each row takes.
    written: in a block of numbers, the cells of the columns that are kept as they are written.
    """

    numbers: np.ndarray | None
    texts: Sequence[Sequence[str]]
    lines: np.ndarray
    written: Mapping[str, Sequence[str]] = field(default_factory=dict)


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
            unzipped = gzip.GzipFile(fileobj=file)
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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer


class TextTable:
    """A text file open at its first row.

    names: of the columns, stripped; an empty first one, as pandas writes above its index, is "".
    source: what messages call the file.
    keep: columns whose cells are wanted as they are written, also in blocks of numbers.
    """

    def __init__(
        self, file: IO[bytes], form: Format, source: str, *, keep: Collection[str] = ()
    ) -> None:
        self.source, self.form, self._keep = source, form, keep
        self._line = 0  # how many lines have been read
        self._file = _one_byte_ends(file, form.encoding, source)
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
        self._first = None if form.header else (first, self._line)
        self._check_names()

    def blocks(self) -> Iterator[Block]:
        """Yield the rows, block by block.  Raises DataError with the line of what is wrong."""
        plain = not codecs.lookup(self.form.encoding).name.startswith("utf-16")
        if self._first is not None:
            row, line = self._first
            yield Block(None, [[cell.strip()] for cell in row], np.array([line]))
        while data := self._read_block():
            numbers = plain_numbers(data, len(self.names), self.form) if plain else None
            if numbers is not None:
                lines = np.arange(self._line + 1, self._line + 1 + numbers.shape[1])
                self._line += numbers.shape[1]
                yield Block(numbers, (), lines, self._written(data))
                continue
            plain = plain and not any(byte in data for byte in b'"')
            self._pending.extend(self._lines(data))
            rows, numbered = self._rows()
            if rows:
                yield Block(None, list(zip(*rows, strict=True)), np.array(numbered))

    def _written(self, data: bytes) -> dict[str, list[str]]:
        """Return the cells of the columns that are kept, of lines without quotes."""
        rows = data.decode(self.form.encoding).splitlines() if self._keep else []
        mark, places = self.form.delimiter, {name: j for j, name in enumerate(self.names)}
        return {
            name: [row.split(mark, places[name] + 1)[places[name]] for row in rows]
            for name in self._keep
            if name in places
        }

    def _rows(self) -> tuple[list[list[str]], list[int]]:
        rows: list[list[str]] = []
        lines = []
        n_columns = len(self.names)
        while self._pending:
            begun = self._line + 1
            row = self._row(begun)
            if len(row) != n_columns:
                if not row or (n_columns > 1 and row == [""]):
                    continue
                raise DataError(self._ragged(row, begun))
            rows.append([cell.strip() for cell in row])
            lines.append(self._line)
        return rows, lines

    def _row(self, begun: int) -> list[str]:
        try:
            return next(self._reader, [])
        except csv.Error as error:
            reason = str(error)
            if "unexpected end" in reason or "field larger" in reason:
                reason = "a quote is opened and never closed"
            elif "expected after" in reason:
                reason += f"; where cells are not divided by {self.form.delimiter!r}, set " + (
                    "data.delimiter"
                )
            raise DataError(f"{self.source}:{begun}: {reason}") from error

    def _first_row(self) -> list[str]:
        start = self._file.peek(16) if hasattr(self._file, "peek") else b""
        for signature, kind in SIGNATURES.items():
            if start.startswith(signature):
                raise DataError(f"{self.source}: is not a text file, but {kind}")
        row: list[str] = []
        while not row:
            line = self._read(0)
            if not line:
                raise DataError(f"{self.source}: is empty")
            self._pending.extend(self._lines(line))
            row = self._row(self._line + 1)
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
            raise DataError(f"{where}: two columns are named {twice!r}")

    def _ragged(self, row: Sequence[str], line: int) -> str:
        columns = f"{len(self.names)} column" + "s" * (len(self.names) > 1)
        text = f"{self.source}:{line}: {len(row)} cells, but {columns}"
        if len(self.names) == 1:
            text += f"; where cells are not divided by {self.form.delimiter!r}, set data.delimiter"
        return text

    def _read_block(self) -> bytes:
        data = self._read(BLOCK)
        return data + self._read(0) if data and not data.endswith(b"\n") else data

    def _read(self, size: int) -> bytes:
        """Read so many bytes, or with 0 the rest of the line."""
        try:
            data: bytes = self._file.read(size) if size else self._file.readline(MAX_LINE)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{self.source}: cannot be read: {error}") from error
        if not size and len(data) >= MAX_LINE:
            raise DataError(f"{self.source}:{self._line + 1}: a line of over {MAX_LINE} bytes")
        return data

    def _lines(self, data: bytes) -> Iterator[str]:
        if b"\0" in data:
            line = self._line + data.count(b"\n", 0, data.index(b"\0")) + 1
            raise DataError(f"{self.source}:{line}: holds a zero byte: it is no text file")
        encoding = "utf-8" if isinstance(self._file, io.BytesIO) else self.form.encoding
        if self._line == 0 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
        try:
            return io.StringIO(data.decode(encoding), newline="")
        except UnicodeDecodeError as error:
            line = self._line + data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.source}:{line}: byte {data[error.start]:#04x} is not {self.form.encoding} "
                "text; set data.encoding, for example to latin-1"
            ) from error

    def _next_line(self) -> str | None:
        """Return the next line for `csv`, which asks for more only within a quoted cell."""
        if not self._pending:
            self._pending.extend(self._lines(self._read(0)))
        if not self._pending:
            return None
        self._line += 1
        return self._pending.popleft()


def _one_byte_ends(file: IO[bytes], encoding: str, source: str) -> Any:
    """A file of UTF-16 as one of UTF-8, whose lines end with one byte; others as they are."""
    if not codecs.lookup(encoding).name.startswith("utf-16"):
        return file
    try:
        return io.BytesIO(file.read().decode(encoding).encode())
    except UnicodeError as error:
        raise DataError(f"{source}: is not {encoding} text: {error}") from error


def plain_numbers(data: bytes, n_columns: int, form: Format) -> np.ndarray | None:
    """Return lines of plain numbers and empty cells as (n_columns, n_rows) float64, else None.

    SciPy's reader of Matrix Market files is the fast and exact parser at hand, but it ignores what
    follows a number ("5%" would be 5).  So the lines are checked first: without digits and signs,
    a number is "", ".", "e" or ".e".
    """
    from scipy.io import mmread

    delimiter = form.delimiter.encode(form.encoding)
    if len(delimiter) != 1 or delimiter in b"0123456789+-.eE ":
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if form.decimal == ",":
        if b"." in data:
            return None
        data = data.replace(b",", b".")
    if not data.endswith(b"\n"):
        data += b"\n"
    marks = data.translate(None, b"0123456789+-")
    if any(wrong in marks for wrong in (b"..", b"e.", b"ee")):
        return None
    separators = marks.translate(None, b".e")
    row = delimiter * (n_columns - 1) + b"\n"
    n_rows = len(separators) // len(row)
    if separators != row * n_rows:
        return None
    data = data.replace(delimiter, b"\n") if n_columns > 1 else data
    empty = _checked_cells(data)
    if empty is None or (empty and n_columns == 1):  # an empty line is no row
        return None
    if empty:
        data = (b"\n" + data).replace(b"\n\n", b"\nnan\n").replace(b"\n\n", b"\nnan\n")[1:]
    head = b"%%%%MatrixMarket matrix array real general\n%d %d\n" % (n_columns, n_rows)
    try:
        values = np.asarray(mmread(io.BytesIO(head + data)), dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    if values.shape != (n_columns, n_rows) or (np.abs(values) >= 1e99).any():
        return None  # "5e102" may be a code
    blank(values, form.missing)
    return values


def _checked_cells(data: bytes) -> bool | None:
    """Whether a cell of these lines is empty; None where one is no plain number.

    Signs may stand in front and after an e only, digits must follow, and zeros in front of other
    digits, as in a postcode, mean no number.
    """
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    padded = np.append(text, text[-1:])
    first, second = padded[starts], padded[starts + 1]
    after_e = np.flatnonzero(text == ord("e")) + 1 if b"e" in data else np.zeros(0, np.int64)
    for sign in b"-+":
        in_front, in_exponent = first == sign, padded[after_e] == sign
        if np.count_nonzero(text == sign) != in_front.sum() + in_exponent.sum():
            return None
        if (second[in_front] == ord("\n")).any():
            return None
        if (padded[after_e[in_exponent] + 1] == ord("\n")).any():
            return None
    if (padded[after_e] == ord("\n")).any():
        return None
    if ((first == ord("0")) & (second >= ord("0")) & (second <= ord("9"))).any():
        return None
    return bool((first == ord("\n")).any())
