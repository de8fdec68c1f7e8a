"""Tables: the columns of a text file, a data frame or an array, each as numbers or as texts.

A `Table` holds what was read, whoever read it. What its columns mean for a model, and what the
model was trained on, is a `Schema` (schema.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minidl.data.cells import blank, is_missing, is_word, numbers, text_of
from minidl.data.frames import FRAMES, frames_of, read_frame
from minidl.data.textfiles import Block, Format, TextTable, open_data
from minidl.errors import DataError

ROWS = 16_384  # of the tables that `tables_of` yields


class TableError(DataError, ValueError):
    """A table does not hold what is needed; as a ValueError, an argument X does not."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column as it was read.

    values: (n_rows,), float64 with NaN for gaps; or int32 places in `texts`, -1 for gaps.
    texts: the different texts, "" is none of them; None for numbers.
    declared: "category" or "date" where a data frame says so; dates are numbers, in seconds.
    """

    values: np.ndarray
    texts: tuple[str, ...] | None = None
    declared: str | None = None

    def as_texts(self) -> Column:
        """Return the column as places among texts."""
        if self.texts is not None:
            return self
        cells: Any = self.values
        if self.declared == "date":
            cells = (self.values * 1e6).astype("datetime64[us]")
        different, places = np.unique(cells, return_inverse=True)
        gap = np.isnat(different) if self.declared == "date" else np.isnan(different)
        places = np.where(gap[places], -1, places).astype(np.int32)
        texts = tuple(map(text_of, different[~gap]))  # gaps are sorted last
        return Column(places, texts, self.declared)

    @property
    def gaps(self) -> np.ndarray:
        """Which rows lack a value, (n_rows,)."""
        return np.asarray(np.isnan(self.values) if self.texts is None else self.values < 0)

    def counts(self) -> np.ndarray:
        """Return how often each of the texts occurs."""
        assert self.texts is not None
        return np.bincount(self.values[self.values >= 0], minlength=len(self.texts))

    def taken(self, rows: Any) -> Column:
        """Return the column of these rows."""
        values = self.values[rows]
        if self.texts is None:
            return replace(self, values=values)
        kept = np.unique(values[values >= 0])
        places = np.full(len(self.texts) + 1, -1, np.int32)
        places[kept] = np.arange(len(kept))
        return replace(self, values=places[values], texts=tuple(self.texts[j] for j in kept))


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length, and where each row came from.

    lines: the line of the file for each row; None for a data frame or an array.
    positional: whether the names were made up, as for an array.
    written: columns of a text file as they are written there, cell by cell, where asked for.
    """

    columns: dict[str, Column]
    n_rows: int
    source: str = "X"
    lines: np.ndarray | None = None
    positional: bool = False
    written: dict[str, list[str]] = field(default_factory=dict)

    def where(self, row: int) -> str:
        """Return the place of a row for a message: its line in the file, or its row from 0."""
        return f"{self.source}" + (f", row {row}" if self.lines is None else f":{self.lines[row]}")

    def taken(self, rows: np.ndarray) -> Table:
        """Return the table of these rows."""
        columns = {name: column.taken(rows) for name, column in self.columns.items()}
        lines = None if self.lines is None else self.lines[rows]
        n_rows = len(np.arange(self.n_rows)[rows])
        return replace(self, columns=columns, n_rows=n_rows, lines=lines)

    def without(self, names: Iterable[str]) -> Table:
        """Return the table without these columns."""
        left = set(names)
        columns = {name: column for name, column in self.columns.items() if name not in left}
        return replace(self, columns=columns)


def read_table(
    path: str | os.PathLike[str], form: Format | None = None, literal: Collection[str] = ()
) -> Table:
    """Return the table of a text file (CSV, TSV; gzipped or not), Parquet or Arrow file.

    literal: columns of texts where "NA", "none" and their like are labels, as a target may be.
    Raises DataError for a file that cannot be read as such, with the line.
    """
    if (frame := read_frame(path)) is not None:
        words = () if form is None else form.missing
        return replace(table_of(frame, words), source=str(path))
    with open_data(path) as file:
        text = TextTable(file, form or Format(), str(path))
        return _gathered(text, text.blocks(), literal)


def tables_of(
    file: Any,
    form: Format | None = None,
    source: str = "standard input",
    *,
    rows: int = ROWS,
    keep: Collection[str] = (),
    literal: Collection[str] = (),
) -> Iterator[Table]:
    """Yield the tables of some `rows` rows each of a text file that is open for reading bytes.

    literal: as for `read_table`.  keep: columns that are wanted in `written` too.
    """
    text = TextTable(file, form or Format(), source, as_written=bool(keep))
    waiting, n_rows, n_given = list[Block](), 0, 0
    for block in text.blocks():
        waiting.append(block)
        n_rows += len(block.lines)
        if n_rows >= n_given + rows:
            yield _gathered(text, waiting, literal, keep)
            waiting, n_given = [], n_rows
    if waiting or not n_rows:
        yield _gathered(text, waiting, literal, keep)


def pieces_of(path: str, form: Format, **options: Any) -> Iterator[Table]:
    """Yield the tables of some rows each of a file.  options: of `tables_of`, for a text file."""
    if path.lower().endswith(FRAMES):
        for frame in frames_of(path):
            yield replace(table_of(frame, form.missing), source=path)
        return
    with open_data(path) as file:
        yield from tables_of(file, form, path, **options)


def table_of(X: Any, words: Sequence[str] = ()) -> Table:
    """Return the table of a data frame (pandas, polars), an array, or a sequence of rows.

    words: further texts that mark a gap.  Raises TableError for what is no table.
    """
    if isinstance(X, Table):
        return X
    if hasattr(X, "columns"):
        names = [str(name).strip() for name in X.columns]
        if len(set(names)) < len(names):
            raise TableError("X must have columns of different names")
        positional = list(X.columns) == list(range(len(names)))
        cells = [X.iloc[:, j] if hasattr(X, "iloc") else X[:, j] for j in range(len(names))]
    else:
        X = np.asarray(X) if isinstance(X, np.ndarray) else _array(X)
        if X.ndim != 2:
            raise TableError(f"X must be a table of two dimensions, got {X.ndim}")
        positional, names, cells = True, [f"column {j}" for j in range(X.shape[1])], list(X.T)
    columns = {
        name: column_of(each, words, hasattr(each, "name"))
        for name, each in zip(names, cells, strict=True)
    }
    return Table(columns, len(X), positional=positional)


def column_of(cells: Any, words: Sequence[str] = (), framed: bool = True) -> Column:
    """Return a column of a frame or an array.

    framed: whether booleans are those of a frame, and so categories, or an array's 0 and 1.
    """
    declared = None
    if str(getattr(cells, "dtype", "")).lower().startswith(("categor", "enum", "dictionary")):
        declared = "category"
    array = np.asarray(cells)
    kind = array.dtype.kind
    if declared is None and kind in ("iufb" if not framed else "iuf"):
        if framed and kind == "f" and array.dtype.itemsize < 8:  # float32 0.1 is 0.1
            array = np.array(list(map(str, array)))
        values = array.astype(np.float64)
        blank(values, words)
        return Column(values)
    if kind in "Mm":  # moments, and times between two
        seconds = array.astype(f"{kind}8[us]").astype(np.int64) / 1e6
        declared = "date" if kind == "M" else None
        return Column(np.where(np.isnat(array), np.nan, seconds), declared=declared)
    gatherer = Gatherer(words)
    gatherer.add([text_of(cell) for cell in array.tolist()])
    return replace(gatherer.column(declared is None), declared=declared)


class Gatherer:
    """A column that comes in parts: numbers as long as all its cells are plain ones, else texts."""

    def __init__(
        self, words: Sequence[str] = (), decimal: str = ".", *, literal: bool = False
    ) -> None:
        self._words, self._decimal, self._literal = words, decimal, literal
        self._parts: list[np.ndarray] = []
        self._places: _Places | None = None  # of the texts; None as long as all are numbers

    def add(self, cells: np.ndarray | Sequence[str]) -> None:
        """Add cells: plain numbers with NaN for gaps, or texts."""
        if self._places is None:
            values: Any = cells
            if not isinstance(cells, np.ndarray):
                values = numbers(cells, self._decimal, self._words)
            if values is not None:
                blank(values, self._words)
                self._parts.append(values)
                return
            self._places = _Places()
            self._parts = list(map(self._coded, self._parts))
        self._parts.append(self._coded(cells))

    def column(self, as_numbers: bool = True) -> Column:
        """Return all that was added.  as_numbers: whether plain numbers are left as such."""
        values = np.concatenate(self._parts) if self._parts else np.zeros(0)
        if self._places is None:
            return Column(values) if as_numbers else Column(values).as_texts()
        texts, places = _Places(), []  # stripped, and without gaps
        for text in map(str.strip, self._places):
            gap = is_missing(text, self._words)
            if gap and self._literal:
                gap = not is_word(text, self._words)
            places.append(-1 if gap else texts[text])
        found: np.ndarray = np.array([*places, -1], np.int32)[values]
        return Column(found, tuple(texts))

    def _coded(self, cells: np.ndarray | Sequence[str]) -> np.ndarray:
        assert self._places is not None
        if isinstance(cells, np.ndarray):
            return self._places.coded(Column(cells), self._decimal)
        return np.fromiter(map(self._places.__getitem__, cells), np.int32, len(cells))


class _Places(dict[str, int]):
    """Texts and their places, in the order in which they are asked for."""

    def __missing__(self, text: str) -> int:
        place = self[text] = len(self)
        return place

    def coded(self, column: Column, decimal: str = ".") -> np.ndarray:
        """Return the place of each cell of a column, -1 for gaps; numbers are spelled anew."""
        spelled = column.as_texts()
        texts = spelled.texts or ()
        if column.texts is None:
            texts = tuple(text.replace(".", decimal) for text in texts)
        found: np.ndarray = np.array([*map(self.__getitem__, texts), -1], np.int32)[spelled.values]
        return found


def _gathered(
    text: TextTable,
    blocks: Iterable[Block],
    literal: Collection[str] = (),
    keep: Collection[str] = (),
) -> Table:
    form = text.form
    gatherers = [
        Gatherer(form.missing, form.decimal, literal=name in literal) for name in text.names
    ]
    lines = []
    written: dict[str, list[str]] = {name: [] for name in keep if name in text.names}
    for block in blocks:
        lines.append(block.lines)
        for name, gatherer, cells in zip(text.names, gatherers, block.columns, strict=True):
            gatherer.add(cells)
            if name in written:
                written[name].extend(map(str.strip, cells))
    if not lines:
        raise DataError(f"{text.source}: holds no row")
    columns = dict(zip(text.names, (each.column() for each in gatherers), strict=True))
    if text.open_end and not columns.pop(text.names[-1]).gaps.all():
        n = len(text.names)
        raise DataError(f"{text.source}:1: column {n} of {n} has no name")
    all_lines = np.concatenate(lines)
    return Table(columns, len(all_lines), text.source, all_lines, not form.header, written)


def joined(tables: Sequence[Table], decimal: str = ".") -> Table:
    """Return the rows of several tables with the same columns as one table."""
    columns = {}
    for name, first in tables[0].columns.items():
        parts = [table.columns[name] for table in tables]
        if all(part.texts is None for part in parts):
            columns[name] = replace(first, values=np.concatenate([part.values for part in parts]))
            continue
        places = _Places()
        values = np.concatenate([places.coded(part, decimal) for part in parts])
        columns[name] = Column(values, tuple(places), first.declared)
    lines = None if tables[0].lines is None else np.concatenate([each.lines for each in tables])
    n_rows = sum(each.n_rows for each in tables)
    return replace(tables[0], columns=columns, n_rows=n_rows, lines=lines)


def _array(rows: Any) -> np.ndarray:
    """A sequence of rows as an array that keeps each cell as it is."""
    try:
        return np.asarray(rows, dtype=object)
    except ValueError as error:
        raise TableError(f"X must be a table: {error}") from None


def listed(names: Sequence[str]) -> str:
    """Return the first twenty names for a message, and how many more there are."""
    shown = ", ".join(name[:100] for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def yaml_key(name: str) -> str:
    """Return a name as a key in a config, in quotes where it needs them."""
    return name if name.isidentifier() and not is_missing(name) else json.dumps(name)
