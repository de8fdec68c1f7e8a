"""Tables, in text files or data frames: columns of numbers and of categories, with gaps.

What a cell means is decided here and nowhere else: `MISSING` words are gaps, a column whose other
cells are all numbers holds numbers, any other holds categories.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minidl.errors import DataError, ParameterError

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
MAX_LABELS = 100  # of a column of a data frame; rarer ones count as missing
MAX_CLASSES = 20  # a column of whole numbers with more different ones is a regression's target

Task = Literal["auto", "classification", "regression"]


@dataclass(frozen=True, eq=False)
class Column:
    """One column: float64 numbers, or codes of its labels, which are sorted; NaN where missing."""

    values: np.ndarray
    labels: tuple[str, ...] = ()


def read_csv(path: str | Path, delimiter: str = ",") -> dict[str, Column]:
    """Return the columns of a CSV file in UTF-8 whose first line names them, in its order.

    Raises DataError for a file that cannot be read as such, naming the line.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ParameterError("delimiter", f"must be one character, got {delimiter!r}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if not names or "" in names or len(set(names)) < len(names):
                raise DataError(
                    f"{path}:1: the first line must name every column, each differently"
                )
            cells: list[list[str]] = [[] for _ in names]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{path}:{reader.line_num}: {len(row)} cells, but {len(names)} columns"
                    )
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell.strip())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason}") from error
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    if not cells[0]:
        raise DataError(f"{path}: holds no row")
    return {name: _column(column) for name, column in zip(names, cells, strict=True)}


def cells_of(X: Any) -> list[np.ndarray]:
    """Return the columns of a data frame (pandas or polars) or of an array of cells.

    A column that the frame calls one of categories comes as text, "" where missing.
    """
    if not hasattr(X, "columns"):
        return list(np.asarray(X, dtype=object).T)
    columns = []
    for j in range(X.shape[1]):
        column = X.iloc[:, j] if hasattr(X, "iloc") else X[:, j]
        categorical = str(column.dtype).lower().startswith(("categor", "enum"))
        cells = np.asarray(column)
        if categorical:
            cells = np.array(
                ["" if is_missing(cell) else label_of(cell) for cell in cells], np.str_
            )
        columns.append(cells)
    return columns


def read_columns(X: Any) -> list[Column]:
    """Return the columns of a data frame or of an array of cells, each with what it holds.

    Categories are the columns that the frame calls so, and those with a cell that is no number.
    Their labels are those that occur at least twice, the `MAX_LABELS` most frequent ones.
    """
    return [_read(cells) for cells in cells_of(X)]


def numbers(cells: Iterable[Any]) -> np.ndarray:
    """Return cells as float64, NaN where missing; raise ValueError where one is not a number.

    Dates and durations count in milliseconds.
    """
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        return cells.astype(np.float64)
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "mM":
        milliseconds = cells.astype(f"{cells.dtype.kind}8[ms]").astype(np.int64)
        return np.where(np.isnat(cells), math.nan, milliseconds)
    return np.array([math.nan if is_missing(cell) else _number(cell) for cell in cells])


def is_number(text: str) -> bool:
    """Whether a label is the text of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(cell: Any) -> float:
    if not isinstance(cell, date):  # a datetime is a date
        return float(cell)
    if isinstance(cell, datetime) and cell.tzinfo is not None:
        cell = cell.astimezone(UTC).replace(tzinfo=None)
    return float(np.datetime64(cell, "ms").astype(np.int64))


def codes(cells: Iterable[Any], labels: Iterable[str]) -> np.ndarray:
    """Return the place of each cell among the labels as float64; NaN where missing or unknown."""
    places = {label: float(code) for code, label in enumerate(labels)}
    return np.array(
        [math.nan if is_missing(cell) else places.get(label_of(cell), math.nan) for cell in cells]
    )


def label_of(cell: Any) -> str:
    """Return the label that a cell stands for: a whole number is the same with and without ".0"."""
    whole = isinstance(cell, float | np.floating) and float(cell).is_integer()
    return str(int(cell)) if whole else str(cell).strip()


def is_missing(cell: Any) -> bool:
    """Whether a cell is a gap: None, NaN, pandas' NA, or one of the words for it."""
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    return cell is None or type(cell).__name__ == "NAType" or bool(cell != cell)


def target_of(name: str, column: Column, task: Task) -> tuple[np.ndarray, tuple[Any, ...] | None]:
    """Return (y, classes) for a target column; classes is None for a regression.

    With task "auto", labels and at most MAX_CLASSES different whole numbers are classes.
    Raises DataError for a gap, or for labels in a regression.
    """
    gaps = np.isnan(column.values)
    if gaps.any():
        row = int(gaps.argmax()) + 1
        raise DataError(f"target {name!r} is missing in row {row}: drop such rows")
    different = np.unique(column.values)
    if task == "auto":
        few = len(different) <= MAX_CLASSES and bool((different == np.round(different)).all())
        task = "classification" if column.labels or few else "regression"
    if task == "regression":
        if column.labels:
            raise DataError(f"target {name!r} holds labels, such as {column.labels[0]!r}")
        return column.values, None
    if column.labels:
        return column.values.astype(np.int64), column.labels
    classes = tuple(int(value) if value == round(value) else float(value) for value in different)
    return np.searchsorted(different, column.values).astype(np.int64), classes


def _column(cells: list[str]) -> Column:
    try:
        values = numbers(cells)
    except ValueError:
        labels = tuple(sorted({cell for cell in cells if not is_missing(cell)}))
        return Column(codes(cells, labels), labels)
    return Column(values)


def _read(cells: np.ndarray) -> Column:
    if cells.dtype.kind != "U":
        try:
            return Column(numbers(cells))
        except (ValueError, TypeError):  # some cell is no number
            pass
    counts = Counter(label_of(cell) for cell in cells if not is_missing(cell))
    frequent = [label for label, count in counts.most_common(MAX_LABELS) if count > 1]
    labels = tuple(sorted(frequent or counts))[:MAX_LABELS] or ("",)
    return Column(codes(cells, labels), labels)
