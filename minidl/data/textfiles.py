"""Text files of rows and columns, read in blocks.

A block of plain numbers, and of columns known to hold texts, is parsed at once; others go through
`csv`, which tells what is in a column.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import numpy as np

from minidl.data.cells import NUMBERS, blank, parsed, plain_numbers
from minidl.data.formats import COMMENTS, Format, n_comments
from minidl.data.tables import Column, Table, column_of_texts
from minidl.errors import DataError

BLOCK = 3 * 2**16  # bytes, for up to 64 columns; what larger ones hold leaves the cache
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
# What is in JSON's other values, and in codes such as 5E102.
NO_NUMBERS = (b"n", b"t", b"f", b"N", b"I", b"E", b'"', b"[", b"{")


class TextTable:
    """A text file open at its first row.

    source: what messages call the file.
    keep: columns that are wanted in `Table.written` too.
    literal: columns of texts where "NA", "none" and their like are labels, as a target may be.
    """

    def __init__(
        self,
        file: IO[bytes],
        form: Format,
        source: str,
        *,
        keep: Collection[str] = (),
        literal: Collection[str] = (),
    ) -> None:
        self._source, self._form, self._literal = source, form, literal
        self._line = 0  # how many lines have been read
        self._file, self._encoding = _one_byte_ends(file, form.encoding, source)
        self._is_utf_8 = codecs.lookup(self._encoding).name in ("utf-8", "utf-8-sig")
        self._pending: deque[str] = deque()
        self._reader = csv.reader(
            iter(self._next_line, None),
            delimiter=form.delimiter,
            skipinitialspace=form.delimiter != " ",
            strict=True,
        )
        first = self._first_row()
        # An empty name of the first column, as pandas writes above its index, is one.
        self._names = [name.strip() for name in first]
        if not form.header:
            self._names = [f"column_{number}" for number in range(1, len(first) + 1)]
        # Where the first line ends with a delimiter, the last column is none.
        self._open_end = len(first) > 1 and not self._names[-1]
        if self._open_end:
            self._names[-1] = f"column_{len(first)}"
        self._first = None if form.header else (first, self._line)
        self._check_names()
        self._keep = {j for j, name in enumerate(self._names) if name in keep}
        self._odd = set(self._keep)  # columns that held other cells than plain numbers
        self._texts: set[int] = set()  # those of them that are no numbers at all

    def tables(self) -> Iterator[Table]:
        """Yield the rows, block by block.  Raises DataError with the line of what is wrong."""
        if self._first is not None:
            row, line = self._first
            yield self._table([[cell] for cell in row], np.array([line]))
        yield from self._careful()  # of a first line that is the whole file, as returns divide it
        size = BLOCK * (1 + len(self._names) // 64)
        while data := self._read(size):
            if (columns := self._at_once(data)) is not None:
                start, self._line = self._line + 1, self._line + len(columns[0])
                yield self._table(columns, np.arange(start, self._line + 1))
            else:
                self._pending.extend(io.StringIO(self._decoded(data), newline=""))
                yield from self._careful()

    def _at_once(self, data: bytes) -> Sequence[Any] | None:
        """Return columns of plain numbers as float64, those of `_odd` as texts; None for others."""
        mark, decimal, n_columns = self._form.delimiter, self._form.decimal, len(self._names)
        if not self._is_utf_8:
            data = self._decoded(data).encode()
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if not data.endswith(b"\n"):
            data += b"\n"
        n_lines, odd = data.count(b"\n"), sorted(self._odd)
        if b"\r" in data or (n_columns == 1 and b"\n\n" in b"\n" + data):  # other ends, no rows
            return None
        if odd:
            if (found := _cut_out(data, mark, (n_lines, n_columns), odd)) is None:
                return None
            data, texts = found
            is_plain = not any(sign in data for sign in NO_NUMBERS)
        else:
            between = (mark * (n_columns - 1) + "\n") * n_lines
            is_plain = data.translate(None, NUMBERS) == between.encode()
        if not is_plain or (decimal == "," and b"." in data):
            return None
        if decimal == ",":
            data = data.replace(b",", b".")
        values = parsed(data[:-1].replace(b"\n", b",").replace(mark.encode(), b","))
        if values is None:
            return None
        columns: list[Any] = [each.copy() for each in values.reshape(n_lines, n_columns).T]
        for i, j in enumerate(odd):
            columns[j] = texts[i :: len(odd)]
        return columns

    def _table(self, columns: Sequence[Any], lines: np.ndarray) -> Table:
        words, decimal, found = self._form.missing, self._form.decimal, dict[str, Column]()
        for j, (name, cells) in enumerate(zip(self._names, columns, strict=True)):
            values = cells if isinstance(cells, np.ndarray) else None
            if values is None and j not in self._odd:
                values = plain_numbers(cells, decimal)
            if values is not None:
                if words:
                    blank(values, words)
                found[name] = Column(values)
                continue
            self._odd.add(j)
            found[name] = column_of_texts(
                cells, words, j not in self._texts, decimal=decimal, literal=name in self._literal
            )
            if found[name].texts is not None:
                self._texts.add(j)
        if self._open_end and not found.pop(self._names[-1]).gaps.all():
            n = len(columns)
            raise DataError(f"{self._source}:1: column {n} of {n} has no name")
        written = {self._names[j]: [*map(str.strip, columns[j])] for j in self._keep}
        return Table(found, len(lines), self._source, lines, not self._form.header, written)

    def _careful(self) -> Iterator[Table]:
        """Yield the rows of the pending lines, read as `csv` does."""
        rows: list[list[str]] = []
        lines = []
        n_columns = len(self._names)
        while self._pending:
            begun = self._line + 1
            row = self._row(begun)
            if len(row) == n_columns and (n_columns > 1 or row):
                rows.append(row)
                lines.append(self._line)
            elif row and row != [""]:
                said = f"{self._source}:{begun}: {len(row)} cells, but {n_columns} column"
                above = f"; delete lines above the names of the columns{self._advice()}"
                raise DataError(said + ("s" if n_columns > 1 else above))
        if rows:
            yield self._table(list(zip(*rows, strict=True)), np.array(lines))

    def _row(self, begun: int) -> list[str]:
        try:
            return next(self._reader, [])
        except csv.Error as error:
            reason = str(error)
            if "unexpected end" in reason or "field larger" in reason:
                reason = "a quote is opened and never closed"
            elif "expected after" in reason:
                reason += self._advice()
            raise DataError(f"{self._source}:{begun}: {reason}") from error

    def _first_row(self) -> list[str]:
        start = self._file.peek(16) if hasattr(self._file, "peek") else b""
        for signature, kind in SIGNATURES.items():
            if start.startswith(signature):
                raise DataError(f"{self._source}: is not a text file, but {kind}")
        lines = [self._read_line()]
        while lines[-1].startswith(COMMENTS):
            lines.append(self._read_line())
        n, row = n_comments(lines, self._form.delimiter), list[str]()
        self._line += n
        line = "".join(lines[n:])
        while not row:
            if not line:
                raise DataError(f"{self._source}: is empty")
            self._pending.extend(io.StringIO(line, newline=""))
            row = self._row(self._line + 1)
            line = self._read_line() if not row else ""
        if len(row) > MAX_COLUMNS:
            raise DataError(
                f"{self._source}:1: {len(row)} columns; at most {MAX_COLUMNS} can be read"
            )
        return row

    def _check_names(self) -> None:
        where, names = f"{self._source}:{self._line}", self._names
        for number, name in enumerate(names, 1):
            if not name and (number > 1 or len(names) == 1):
                raise DataError(f"{where}: column {number} of {len(names)} has no name")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{where}: two columns are named {twice[0]!r}: rename one")

    def _advice(self) -> str:
        return f"; where cells are not divided by {self._form.delimiter!r}, set data.delimiter"

    def _read(self, size: int) -> bytes:
        """Read so many bytes and the rest of the line."""
        try:
            data: bytes = self._file.read(size)
            if not data.endswith(b"\n") and (data or not size):
                data += self._file.readline(MAX_LINE)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._source}: cannot be read: {error}") from error
        if len(data) >= MAX_LINE + size:
            raise DataError(f"{self._source}:{self._line + 1}: a line of over {MAX_LINE} bytes")
        if b"\0" in data:
            line = self._line + data.count(b"\n", 0, data.index(b"\0")) + 1
            raise DataError(f"{self._source}:{line}: holds a zero byte: it is no text file")
        return data.removeprefix(codecs.BOM_UTF8) if self._line == 0 else data

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            line = self._line + data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self._source}:{line}: byte {data[error.start]:#04x} is not "
                f"{self._form.encoding} text; set data.encoding, for example to latin-1"
            ) from error

    def _read_line(self) -> str:
        return self._decoded(self._read(0))

    def _next_line(self) -> str | None:
        """Return the next line for `csv`, which asks for more only within a quoted cell."""
        if not self._pending:
            self._pending.extend(io.StringIO(self._read_line(), newline=""))
        if not self._pending:
            return None
        self._line += 1
        return self._pending.popleft()


def _cut_out(
    data: bytes, mark: str, shape: tuple[int, int], odd: list[int]
) -> tuple[bytes, list[str]] | None:
    """Return lines with 0 for each cell of the columns `odd`, and those cells, line by line.

    shape: how many lines and columns.  An empty cell is left empty.  None for lines with another
    number of cells, and where a quote is not around a whole cell of these columns.
    """
    view = np.frombuffer(data, np.uint8).copy()
    ends = np.flatnonzero((view == ord(mark)) | (view == ord("\n")))
    is_apart = mark.isascii() and mark.encode() not in NUMBERS
    if not is_apart or ends.size != shape[0] * shape[1]:
        return None
    if (view[ends[shape[1] - 1 :: shape[1]]] != ord("\n")).any():
        return None
    cut = np.add.outer(np.arange(0, ends.size, shape[1]), odd).ravel()
    starts, ends = np.append(0, ends + 1)[cut], ends[cut]
    lengths = ends + 1 - starts
    places = np.arange(lengths.sum()) + np.repeat(starts + lengths - lengths.cumsum(), lengths)
    marks = view[ends]
    view[ends] = ord("\n")
    try:
        cells = view[places].tobytes().decode().split("\n")[:-1]
    except UnicodeDecodeError:
        return None
    view[places], view[starts], view[ends] = ord(" "), ord("0"), marks
    if b'"' in data:
        quoted = [cell[:1] == cell[-1:] == '"' != cell for cell in cells]
        if data.count(b'"') != 2 * sum(quoted):
            return None
        cells = [cell[is_in : len(cell) - is_in] for cell, is_in in zip(cells, quoted, strict=True)]
    return view.tobytes(), cells


def _one_byte_ends(file: IO[bytes], encoding: str, source: str) -> tuple[Any, str]:
    """A file of UTF-16 as one of UTF-8, whose lines end with one byte; others as they are."""
    if not codecs.lookup(encoding).name.startswith("utf-16"):
        return file, encoding
    try:
        return io.BytesIO(file.read().decode(encoding).encode()), "utf-8"
    except UnicodeError as error:
        raise DataError(f"{source}: is not {encoding} text: {error}") from error
