"""Files as tables, whole or in pieces: text, and Parquet and Arrow, which polars reads."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import IO, Any

from minidl.data.formats import FRAMES, Format, open_data
from minidl.data.tables import Table, joined, table_of
from minidl.data.textfiles import TextTable
from minidl.errors import DataError

ROWS = 16_384  # of the pieces of a text file
PARQUET = (".parquet", ".pq")
CELLS = 1 << 17  # of the pieces of a Parquet file
AT_ONCE = 16  # of them are read together


def read_table(
    path: str | os.PathLike[str], form: Format | None = None, literal: Collection[str] = ()
) -> Table:
    """Return the table of a text file (CSV, TSV; gzipped or not), Parquet or Arrow file.

    literal: as for `TextTable`.
    Raises DataError for a file that cannot be read as such, with the line.
    """
    form = form or Format()
    return joined([*pieces_of(str(path), form, rows=1, literal=literal)], form.decimal)


def pieces_of(path: str, form: Format, **options: Any) -> Iterator[Table]:
    """Yield the tables of some rows each of a file.  options: of `tables_of`, for a text file."""
    if path.lower().endswith(FRAMES):
        for frame in _frames(path):
            yield replace(table_of(frame, form.missing), source=path)
        return
    with open_data(path) as file:
        yield from tables_of(file, form, path, **options)


def tables_of(
    file: IO[bytes],
    form: Format,
    source: str = "standard input",
    *,
    rows: int = ROWS,
    **options: Any,
) -> Iterator[Table]:
    """Yield tables of some `rows` rows of a text file that is open.  options: of `TextTable`."""
    waiting, n_rows, is_empty = list[Table](), 0, True
    for table in TextTable(file, form, source, **options).tables():
        waiting.append(table)
        n_rows, is_empty = n_rows + table.n_rows, False
        if n_rows >= rows:
            yield joined(waiting, form.decimal)
            waiting, n_rows = [], 0
    if waiting:
        yield joined(waiting, form.decimal)
    if is_empty:
        raise DataError(f"{source}: holds no row")


def _frames(path: str) -> Iterator[Any]:
    """Yield the frames of some CELLS cells each of a Parquet file; of an Arrow file, one frame."""
    kind = os.path.splitext(path)[1].lower()
    try:
        import polars
    except ImportError:
        raise DataError(
            f'{path}: {kind} files are read with polars: pip install "minidl[tables]"'
        ) from None

    def tried(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # of polars' own kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path}: is not a {kind[1:]} file: {reason}") from error

    with open_data(path) as file:  # which refuses what is no file
        if kind not in PARQUET:
            yield tried(lambda: polars.read_ipc(file))
            return
    scan = polars.scan_parquet(path, glob=False)
    n_rows = tried(lambda: scan.select(polars.len()).collect().item())
    if n_rows == 0:
        raise DataError(f"{path}: holds no row")
    rows = max(1, CELLS // max(1, len(tried(scan.collect_schema))))
    for start in range(0, n_rows, AT_ONCE * rows):
        yield from tried(scan.slice(start, AT_ONCE * rows).collect).iter_slices(rows)
