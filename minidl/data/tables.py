"""Tables: the columns of a text file, a data frame or an array, each as numbers or as texts.

A `Table` holds what was read, whoever read it. What its columns mean for a model, and what the
model was trained on, is a `Schema` (schema.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from minidl.data.cells import blank, is_missing, is_word, numbers, text_of
from minidl.errors import DataError


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

    def as_texts(self, decimal: str = ".") -> Column:
        """Return the column as places among texts; `decimal` is written in those of numbers."""
        if self.texts is not None:
            return self
        cells: Any = self.values
        if self.declared == "date":
            cells = (self.values * 1e6).astype("datetime64[us]")
        different, places = np.unique(cells, return_inverse=True)
        gap = np.isnat(different) if self.declared == "date" else np.isnan(different)
        places = np.where(gap[places], -1, places).astype(np.int32)
        texts = (text_of(cell).replace(".", decimal) for cell in different[~gap])  # gaps are last
        return Column(places, tuple(texts), self.declared)

    def placed(self, places: dict[str, int]) -> Column:
        """Return a column of texts as places in `places`, to which those not there are added."""
        found = [places.setdefault(text, len(places)) for text in self.texts or ()]
        return replace(self, values=np.array([*found, -1], np.int32)[self.values])

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

    @property
    def is_argument(self) -> bool:
        """Whether a caller gave it, as a frame or an array; otherwise a config names its file."""
        return self.source == "X"

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


def table_of(X: Any, words: Sequence[str] = ()) -> Table:
    """Return the table of a data frame (pandas, polars, pyarrow), an array, or a sequence of rows.

    words: further texts that mark a gap.  Raises TableError for what is no table.
    """
    if isinstance(X, Table):
        return X
    X = as_frame(X)
    if hasattr(X, "columns"):
        names = [str(name).strip() for name in X.columns]
        if len(set(names)) < len(names):
            raise TableError("X must have columns of different names")
        positional = list(X.columns) == list(range(len(names)))
        cells = [X.iloc[:, j] if hasattr(X, "iloc") else X[:, j] for j in range(len(names))]
    else:
        try:  # rows as an array that keeps each cell as it is
            X = np.asarray(X, None if isinstance(X, np.ndarray) else object)
        except ValueError as error:
            raise TableError(f"X must be a table: {error}") from None
        if X.ndim != 2:
            raise TableError(f"X must be a table of two dimensions, got {X.ndim}")
        positional, names, cells = True, [f"column {j}" for j in range(X.shape[1])], list(X.T)
    columns = {
        name: column_of(each, words, hasattr(each, "name"))
        for name, each in zip(names, cells, strict=True)
    }
    return Table(columns, len(X), positional=positional)


def as_frame(X: Any) -> Any:
    """Return a table of pyarrow, whose `columns` are no names, as a frame; all else as it is."""
    return X.to_pandas() if hasattr(X, "column_names") else X


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
        return Column(blank(array.astype(np.float64), words))
    if kind in "Mm":  # moments, and times between two
        seconds = array.astype(f"{kind}8[us]").astype(np.int64) / 1e6
        declared = "date" if kind == "M" else None
        return Column(np.where(np.isnat(array), np.nan, seconds), declared=declared)
    column = column_of_texts(*placed([*map(text_of, array.tolist())]), words, declared is None)
    return replace(column, declared=declared)


def placed(cells: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the places of cells among the different ones, and those."""
    places = dict(zip(dict.fromkeys(cells), count()))
    return np.fromiter(map(places.__getitem__, cells), np.int64, len(cells)), list(places)


def column_of_texts(
    places: np.ndarray,
    different: Sequence[str],
    words: Sequence[str] = (),
    may_be_numbers: bool = True,
    *,
    decimal: str = ".",
    literal: bool = False,
) -> Column:
    """Return a column of cells as they are written: numbers where all are plain ones or gaps.

    places: (n_rows,), of the cells among the different ones.
    literal: whether "NA", "none" and their like are labels among other texts.
    """
    if may_be_numbers and (values := numbers(different, decimal, words)) is not None:
        return Column(blank(values, words)[places])
    texts = dict[str, int]()
    codes = [
        -1
        if is_missing(text, words) and not (literal and is_word(text, words))
        else texts.setdefault(text, len(texts))
        for text in map(str.strip, different)
    ]
    return Column(np.array(codes, np.int32)[places], tuple(texts))


def joined(tables: Sequence[Table], decimal: str = ".") -> Table:
    """Return the rows of several tables with the same columns as one table."""
    first = tables[0]
    if len(tables) == 1:
        return first
    columns = {}
    for name, column in first.columns.items():
        parts, texts = [table.columns[name] for table in tables], None
        if any(part.texts is not None for part in parts):
            places: dict[str, int] = {}
            parts = [part.as_texts(decimal).placed(places) for part in parts]
            texts = tuple(places)
        values = np.concatenate([part.values for part in parts])
        columns[name] = Column(values, texts, column.declared)
    lines = None if first.lines is None else np.concatenate([each.lines for each in tables])
    written = {name: [c for each in tables for c in each.written[name]] for name in first.written}
    n_rows = sum(each.n_rows for each in tables)
    return replace(first, columns=columns, n_rows=n_rows, lines=lines, written=written)


def listed(names: Sequence[str]) -> str:
    """Return the first twenty names for a message, and how many more there are."""
    shown = ", ".join(name[:100] for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def yaml_key(name: str) -> str:
    """Return a name as a key in a config, in quotes where it needs them."""
    plain = name.isidentifier() and not is_missing(name) and name.lower() not in ("true", "false")
    return name if plain else json.dumps(name)
