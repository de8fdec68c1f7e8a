"""What a text file looks like before anyone has said: its format, its columns, and what is odd."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidl.data.cells import is_code, is_missing, number
from minidl.data.dataset import Dataset
from minidl.data.frames import read_frame
from minidl.data.kinds import ColumnSchema, Tally
from minidl.data.leaks import leaks
from minidl.data.schema import Schema
from minidl.data.tables import Column, Table, TableError, read_table, table_of
from minidl.data.targets import Target, target_of
from minidl.data.textfiles import Format, open_data
from minidl.errors import DataError

SAMPLE = 2**18  # bytes from which the format of a file is told
DELIMITERS = ",;\t|"
MOST_WORDS = 3  # a column of numbers has at most as many texts that mark a gap


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    kinds: of all columns but the target, as `data.columns` takes them.  reasons: why, for each.
    warnings: what the person who trains should look at.
    """

    form: Format
    target: Target
    kinds: Mapping[str, str]
    reasons: Mapping[str, str]
    warnings: Sequence[str]
    n_rows: int


def inspect(path: str, target: str) -> Inspection:
    """Look at a file and tell what it holds.  Raises DataError for what is no table."""
    frame = read_frame(path)
    if frame is None:
        form = detect_format(path, target)
        table = read_table(path, form, literal=(target,))
        words = _gap_words(table, target, form)
        if words:
            form = replace(form, missing=words)
            table = read_table(path, form, literal=(target,))
    else:
        form, table = Format(), replace(table_of(frame), source=path)
    found = target_of(table, target, drop_missing=True, decimal=form.decimal, words=form.missing)
    rest = table.without([target]).taken(found.rows)
    kinds: dict[str, str] = {}
    reasons: dict[str, str] = {}
    warnings = list(found.notes)
    for name, column in rest.columns.items():
        try:
            meant, note = ColumnSchema.infer(rest, name, decimal=form.decimal)
        except TableError as error:
            meant, note = ColumnSchema.infer(rest, name, "category", decimal=form.decimal)
            warnings.append(f"{error}: taken for a category")
        kinds[name] = f"date {meant.form}" if meant.form not in ("", "iso") else meant.kind
        reasons[name] = _reason(meant, column, note)
        if meant.kind != "ignore" and len(_different(column)) <= 1:
            kinds[name], reasons[name] = "ignore", "the same in all rows"
        if kinds[name] == "ignore":
            warnings.append(f"column {name!r} is left out: {reasons[name]}")
    if set(kinds.values()) <= {"ignore"}:
        said = "; ".join(f"{name!r} {reasons[name]}" for name in list(kinds)[:5])
        raise TableError(f"{path}: has no column to learn from: {said or 'only the target'}")
    schema = Schema.infer(rest, kinds, missing=form.missing, decimal=form.decimal)
    X = schema.encode(rest, Tally())
    data = Dataset("", X, found.y, classes=found.classes, schema=schema)
    warnings += leaks(data)
    return Inspection(form, found, kinds, reasons, warnings, table.n_rows)


def detect_format(path: str, target: str | None = None) -> Format:
    """Tell the delimiter, the encoding, the decimal mark and the header of a text file.

    target: the name of a column, if known: a first line that holds it is a header.
    """
    with open_data(path) as file:
        try:
            data = file.read(SAMPLE)
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        if len(data) == SAMPLE:
            data = data[: data.rfind(b"\n") + 1] or data
    encoding = _encoding(path, data)
    lines = data.decode(encoding, "replace").lstrip("\ufeff").splitlines()
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError(f"{path}: is empty")
    delimiter = max(DELIMITERS, key=lambda mark: _fits(lines, mark))
    if not (rows := _rows(lines, delimiter)):
        raise DataError(f"{path}: is no text of rows and columns")
    cells = [cell for row in rows[1:] for cell in row]
    commas = sum("," in cell and number(cell, ",") is not None for cell in cells)
    points = sum("." in cell and number(cell) is not None for cell in cells)
    decimal = "," if delimiter != "," and commas > points else "."
    first = rows[0]
    if target is not None and target in first:
        header = True
    else:
        plain = [number(cell, decimal) is not None for cell in first]
        below = [
            all(number(row[j], decimal) is not None for row in rows[1:20] if j < len(row))
            for j in range(len(first))
        ]
        header = not any(a and b for a, b in zip(plain, below, strict=True)) or len(rows) == 1
    return Format(delimiter, encoding, header, decimal)  # type: ignore[arg-type]


def _encoding(path: str, data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in data:
        return "utf-8"  # reading names the line
    with open_data(path) as file:
        text = io.TextIOWrapper(file, "utf-8")
        try:
            while text.read(2**20):
                pass
        except UnicodeDecodeError:
            return "latin-1"
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    return "utf-8"


def _fits(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """How well a delimiter divides the lines: the share that has the cells of the first."""
    counts = [len(row) for row in _rows(lines, delimiter)]
    if not counts or counts[0] == 1:
        return 0.0, 0
    return sum(n == counts[0] for n in counts) / len(counts), counts[0]


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        read = csv.reader(lines[:1000], delimiter=delimiter, skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in read]
    except csv.Error:
        return []


def _gap_words(table: Table, target: str, form: Format) -> tuple[str, ...]:
    """The few texts in columns of numbers that can only mark a gap, such as "-" or "unknown"."""
    words: set[str] = set()
    for name, column in table.columns.items():
        if name == target or column.texts is None:
            continue
        plain = np.array([number(text, form.decimal) is not None for text in column.texts])
        odd = [text for text, fits in zip(column.texts, plain, strict=True) if not fits]
        counts = column.counts()
        if not 0 < len(odd) <= MOST_WORDS or counts[plain].sum() < counts.sum() / 2:
            continue
        if len(column.texts) > 10 and not any(c.isdigit() for text in odd for c in text):
            words |= {text for text in odd if not is_missing(text) and not is_code(text)}
    return tuple(sorted(words))


def _different(column: Column) -> np.ndarray:
    values = column.values[column.values >= 0] if column.texts is not None else column.values
    return np.unique(values[~np.isnan(values)])


def _reason(meant: ColumnSchema, column: Column, note: str) -> str:
    """Why a column was taken for its kind, in a few words."""
    if meant.kind == "ignore":
        return note.removeprefix(f"column {meant.name!r}: ").partition(":")[0]
    n, gaps = len(_different(column)), f", {meant.gaps:.1%} missing" if meant.gaps else ""
    if meant.kind == "category":
        few = ", ".join(meant.labels[:4]) + (", ..." if len(meant.labels) > 4 else "")
        return f"{n} labels: {few}{gaps}"
    if meant.kind == "date":
        return f"{n} dates{gaps}"
    return f"{meant.low:g} to {meant.high:g}{gaps}"
