"""What the columns of a table mean: their kinds, labels and ranges, as a model was trained on them.

A schema is inferred from the training table, goes into the model file, and turns any later table
into the same numbers: `schema.encode(frame)`.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from minidl.data.cells import text_of
from minidl.data.kinds import KINDS, MAX_LABELS, ColumnSchema, Kind, Tally
from minidl.data.tables import Column, Table, TableError, listed, table_of
from minidl.errors import ParameterError, require


@dataclass(frozen=True)
class Schema:
    """The columns of a training table, in its order, and how their cells are written.

    missing, decimal: as in `Format`.
    notes: what the person who trains should know, such as columns that were left out.
    """

    columns: tuple[ColumnSchema, ...]
    missing: tuple[str, ...] = ()
    decimal: str = "."
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def infer(
        cls,
        table: Table,
        kinds: Mapping[str, str] | None = None,
        *,
        missing: Sequence[str] = (),
        decimal: str = ".",
        max_labels: int = MAX_LABELS,
    ) -> Self:
        """Tell from the cells of a table what its columns mean.

        kinds: of columns where the user says so: number, category, date, "date FORMAT" with a
        format of `datetime.strptime`, or ignore.
        max_labels: of a category; the most frequent ones are kept.
        Raises TableError for a cell that does not fit its column: file, line, column and value.
        """
        kinds = dict(kinds or {})
        for name, kind in kinds.items():
            require("columns", repr(name), name in table.columns, "names of columns of the table")
            word, _, form = kind.partition(" ")
            if word not in KINDS or (form and word != "date"):
                raise ParameterError(
                    "columns", f"must be {', '.join(KINDS)} or 'date FORMAT', got {name}: {kind!r}"
                )
        found = [
            ColumnSchema.infer(table, name, kinds.get(name), decimal=decimal, max_labels=max_labels)
            for name in table.columns
        ]
        notes = tuple(note for _, note in found if note)
        if all(column.kind == "ignore" for column, _ in found):
            raise TableError("\n  ".join([f"{table.source}: has no column to learn from", *notes]))
        return cls(tuple(column for column, _ in found), tuple(missing), decimal, notes)

    @classmethod
    def plain(
        cls,
        names: Sequence[str],
        labels: Sequence[Sequence[str]] | None = None,
        dates: Sequence[int] = (),
    ) -> Self:
        """Return a schema of categories, where a column has labels, and of dates and numbers."""
        columns = []
        for j, (name, each) in enumerate(zip(names, labels or [()] * len(names), strict=True)):
            kind: Kind = "category" if each else "date" if j in dates else "number"
            columns.append(ColumnSchema(name, kind, tuple(each), "iso" if kind == "date" else ""))
        return cls(tuple(columns))

    @property
    def used(self) -> tuple[ColumnSchema, ...]:
        """The columns that are encoded: all but the ignored ones."""
        return tuple(column for column in self.columns if column.kind != "ignore")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are encoded."""
        return tuple(column.name for column in self.used)

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """Labels of each column that is encoded; () where it is no category."""
        return tuple(column.labels for column in self.used)

    @property
    def dates(self) -> tuple[int, ...]:
        """Which of the columns that are encoded are dates."""
        return tuple(j for j, column in enumerate(self.used) if column.kind == "date")

    def encode(self, X: Any, tally: Tally | None = None, *, warn_at: int = 3) -> np.ndarray:
        """Return numbers, codes of labels and seconds of dates, (n_rows, n_used) float64.

        NaN stands for a gap and for a label that was never seen.  X: a Table, a data frame, whose
        columns are taken by name and may hold others as well, or an array with all the columns or
        all those used, by position.
        What the training table did not hold is added to `tally`, or without one is a warning at
        the stack level `warn_at`.
        Raises TableError for a missing column, and for a cell that does not fit its column.
        """
        counted, used = tally or Tally(), self.used
        plain = not self.missing and all(column.kind == "number" for column in used)
        shape = X.shape[1:] if isinstance(X, np.ndarray) and X.dtype.kind in "biuf" else None
        if plain and shape == (len(used),) and not np.isinf(X).any():
            values: np.ndarray = X.astype(np.float64)
        else:
            table = table_of(X, self.missing)
            columns = _matched(table, [column.name for column in self.columns], self.names)
            values = np.empty((table.n_rows, len(used)))
            for j, (meant, column) in enumerate(zip(used, columns, strict=True)):
                values[:, j] = meant.encode(table, column, self.decimal, counted)
        self._compare(values, counted)
        if tally is None and (messages := counted.messages()):
            warnings.warn("; ".join(messages), stacklevel=warn_at)
        return values

    def _compare(self, values: np.ndarray, tally: Tally) -> None:
        """Count the numbers that are far outside their column's range, and gaps where none were."""
        tally.n_rows += len(values)
        low, high = (np.array([getattr(c, end) for c in self.used]) for end in ("low", "high"))
        width = high - low
        numeric = np.array([c.kind == "number" for c in self.used]) & (width > 0)
        full = np.array([c.gaps == 0 for c in self.used]) & (low <= high)
        outside = numeric & ((values < low - width) | (values > high + width))
        for problem, found in (("outside", outside), ("gaps", full & np.isnan(values))):
            for j in np.flatnonzero(found.any(axis=0)):
                example = text_of(values[found[:, j].argmax(), j])
                tally.add(self.names[j], problem, int(found[:, j].sum()), example)

    def state(self) -> np.ndarray:
        """Return the schema as bytes, uint8, for a model file."""
        columns = [asdict(column).items() for column in self.columns]
        rows = [{key: None if v != v else v for key, v in column} for column in columns]
        document = {"columns": rows, "missing": self.missing, "decimal": self.decimal}
        return np.frombuffer(json.dumps(document).encode(), np.uint8)

    @classmethod
    def restore(cls, state: np.ndarray) -> Self:
        """Return the schema of `state`.  Raises ValueError for what is none."""
        if state.dtype != np.uint8 or state.ndim != 1:
            raise ValueError("its schema is no bytes")
        document = json.loads(state.tobytes())
        columns = tuple(_restored(given) for given in document["columns"])
        missing, decimal = tuple(document["missing"]), document["decimal"]
        if not all(type(word) is str for word in missing) or decimal not in (".", ","):
            raise ValueError("its schema holds unknown marks")
        if len({column.name for column in columns}) < len(columns):
            raise ValueError("its schema names a column twice")
        return cls(columns, missing, decimal)


def _matched(table: Table, names: Sequence[str], needed: Sequence[str]) -> list[Column]:
    """Return the needed columns, by name; by position where the table's names were made up.

    names: all columns at training; needed: those that the model uses.
    """
    columns: Mapping[str, Column] = table.columns
    if table.positional and not set(needed) <= set(columns):
        expected = names if len(columns) == len(names) else needed
        if len(columns) != len(expected):
            raise TableError(f"{table.source} must have {len(needed)} columns, got {len(columns)}")
        columns = dict(zip(expected, columns.values(), strict=True))
    if missing := [name for name in needed if name not in columns]:
        unknown = [name for name in columns if name not in names]
        raise TableError(
            f"{table.source} must have the columns that the model was trained with; missing: "
            f"{listed(missing)}; unknown: {listed(unknown) or 'none'}"
        )
    return [columns[name] for name in needed]


def _restored(given: Mapping[str, Any]) -> ColumnSchema:
    """Return the column that `asdict` described.  Raises for what is none."""
    numbers = {each: given[each] for each in ("low", "high", "gaps")}
    numbers = {each: math.nan if value is None else value for each, value in numbers.items()}
    column = ColumnSchema(**{**given, "labels": tuple(given["labels"]), **numbers})
    right = all(type(text) is str for text in (column.name, column.form, *column.labels))
    right &= all(isinstance(value, float | int) for value in numbers.values())
    if not right or column.kind not in KINDS or (column.kind == "category") != bool(column.labels):
        raise ValueError("its schema holds a column of no known kind")
    return column
