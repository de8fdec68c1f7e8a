"""Text files of rows and columns, read in blocks.

A block that is written plainly is read at once, in C (`_cells.c`). Python's `csv` reads the others,
and says what is wrong with them; where no C compiler was present, it reads all of them, slowly.
"""

import codecs
import csv
import io
import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import numpy as np

from minidl.data.cells import MISSING, blank
from minidl.data.formats import COMMENTS, Format, n_comments
from minidl.data.tables import Column, Table, column_of_texts, placed
from minidl.errors import DataError

try:
    from minidl.data import _cells  # type: ignore[attr-defined]
except ImportError:
    _cells = None
if getattr(_cells, "VERSION", 0) != 1:  # an extension left over from another checkout
    _cells = None

BLOCK = 3 * 2**16  # bytes, for up to 64 columns; what larger ones hold leaves the cache
WORKERS = 2  # threads, which read as many blocks ahead
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
# The words for a gap as they are mostly written, for C; Python knows all spellings.
GAPS = {"NaN", "NaT", *(f(word) for word in MISSING for f in (str.lower, str.upper, str.title))}
NO_MARKS = b"0123456789+-.eE"  # between cells, for C
# A column of a block: numbers and None, or the places of its cells among the different ones, which
# are the second.
Cells = tuple[np.ndarray, list[str] | None]


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
        self._failure: Exception | None = None  # of reading ahead
        self._ahead: deque[tuple[bytes, Future[list[Cells] | None] | None]] = deque()
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
        self._texts: set[int] = set()  # columns that are no numbers
        self._marks = form.delimiter.encode(), form.decimal.encode()
        gaps = sorted(filter(str.isprintable, GAPS | {*form.missing}), key=len)
        self._gaps = "".join(f"{word}\n" for word in gaps).encode()

    def tables(self) -> Iterator[Table]:
        """Yield the rows, block by block.  Raises DataError with the line of what is wrong."""
        if self._first is not None:
            row, line = self._first
            yield self._table([placed([cell]) for cell in row], np.array([line]))
        yield from self._careful()  # of a first line that is the whole file, as returns divide it
        for data, columns in self._blocks():
            if columns is not None:
                start, self._line = self._line + 1, self._line + len(columns[0][0])
                yield self._table(columns, np.arange(start, self._line + 1))
            else:
                self._pending.extend(io.StringIO(self._decoded(data), newline=""))
                yield from self._careful()

    def _blocks(self) -> Iterator[tuple[bytes, list[Cells] | None]]:
        """Yield blocks of lines with their columns, None where a block is not written plainly.

        C reads the next blocks in other threads, without the interpreter's lock.
        """
        size = BLOCK * (1 + len(self._names) // 64)
        with ThreadPoolExecutor(WORKERS) as pool:
            while True:
                while len(self._ahead) <= WORKERS and (data := self._read(size)):
                    # The last block, which may be the only one, is not worth a thread.
                    later = pool.submit(self._plain, data) if len(data) >= size else None
                    self._ahead.append((data, later))
                data, later = self._ahead.popleft() if self._ahead else (b"", None)
                if not self._checked(data, size):
                    return
                columns = later.result() if later else self._plain(data)
                if columns and any(columns[j][1] is None for j in self._texts):  # found meanwhile
                    columns = self._plain(data)
                yield data, columns

    def _plain(self, data: bytes) -> list[Cells] | None:
        """Return the columns of a block that is written plainly, None for others."""
        if _cells is None or len(self._marks[0]) > 1 or self._marks[0] in NO_MARKS:
            return None
        is_text = bytearray(j in self._texts or j in self._keep for j in range(len(self._names)))
        try:
            if self._encoding != "utf-8":
                data = data.decode(self._encoding).encode()
            if not data.endswith(b"\n"):
                data += b"\n"
            # `data.count` takes several times as long.
            n_lines = np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            if len(is_text) * n_lines > len(data):  # most lines are too short
                return None
            cells = np.empty((len(is_text), n_lines))
            found = _cells.read(data, cells, is_text, *self._marks, self._gaps)
            if found is None:
                return None
            texts = iter(found.decode().split("\0"))
        except UnicodeDecodeError:
            return None
        return [
            (row.view(np.int64), next(texts).split("\n")) if textual else (row.copy(), None)
            for row, textual in zip(cells, is_text, strict=True)
        ]

    def _table(self, columns: Iterable[Cells], lines: np.ndarray) -> Table:
        form, found, written = self._form, dict[str, Column](), dict[str, list[str]]()
        for j, (name, (cells, texts)) in enumerate(zip(self._names, columns, strict=True)):
            if texts is None:
                found[name] = Column(blank(cells, form.missing))
                continue
            found[name] = column_of_texts(
                cells,
                texts,
                form.missing,
                j not in self._texts,
                decimal=form.decimal,
                literal=name in self._literal,
            )
            if found[name].texts is not None:
                self._texts.add(j)
            if j in self._keep:
                stripped = [*map(str.strip, texts)]
                written[name] = [stripped[place] for place in cells.tolist()]
        if self._open_end and not found.pop(self._names[-1]).gaps.all():
            n = len(self._names)
            raise DataError(f"{self._source}:1: column {n} of {n} has no name")
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
            yield self._table(map(placed, zip(*rows, strict=True)), np.array(lines))

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
        mark = repr(self._form.delimiter)
        return f"; where cells are not divided by {mark}, set data.delimiter in a config"

    def _read(self, size: int) -> bytes:
        """Read so many bytes and the rest of the line; `_checked` raises what goes wrong."""
        try:
            data: bytes = self._file.read(size)
            if not data.endswith(b"\n") and (data or not size):
                data += self._file.readline(MAX_LINE)
            return data
        except (OSError, ValueError, EOFError, zlib.error) as error:
            self._failure = error
            return b""

    def _checked(self, data: bytes, size: int) -> bytes:
        """Return what `_read` has read, without a byte order mark, once all before it is read."""
        if not data and self._failure:
            raise DataError(f"{self._source}: cannot be read: {self._failure}") from self._failure
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
                f"{self._form.encoding} text; set data.encoding in a config, for example to "
                "latin-1, or convert the file"
            ) from error

    def _read_line(self) -> str:
        if not self._ahead:
            return self._decoded(self._checked(self._read(0), 0))
        line, end, rest = self._ahead.popleft()[0].partition(b"\n")
        if rest:
            self._ahead.appendleft((rest, None))
        return self._decoded(self._checked(line + end, 0))

    def _next_line(self) -> str | None:
        """Return the next line for `csv`, which asks for more only within a quoted cell."""
        if not self._pending:
            self._pending.extend(io.StringIO(self._read_line(), newline=""))
        if not self._pending:
            return None
        self._line += 1
        return self._pending.popleft()


def _one_byte_ends(file: IO[bytes], encoding: str, source: str) -> tuple[Any, str]:
    """A file of UTF-16 as one of UTF-8, whose lines end with one byte; others as they are."""
    name = codecs.lookup(encoding).name
    if not name.startswith("utf-16"):
        return file, name.removesuffix("-sig")  # the mark is passed over in any case
    try:
        return io.BytesIO(file.read().decode(encoding).encode()), "utf-8"
    except UnicodeError as error:
        raise DataError(f"{source}: is not {encoding} text: {error}") from error
