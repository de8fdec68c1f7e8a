"""Kinds of columns: a number, a category, a date, or nothing that a model could use.

The kind of a column is told from all its cells, or given by the user. A column of numbers with
other texts in it is an error, never silently a category.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from minidl.data.cells import (
    date_format,
    declared_number,
    is_code,
    is_padded,
    key,
    moment,
    number,
    text_of,
)
from minidl.data.tables import Column, Table, TableError

Kind = Literal["number", "category", "date", "ignore"]
KINDS = get_args(Kind)

MAX_LABELS = 100  # of a column; rarer ones count as missing
MIXED = 0.1  # a column of texts with a larger share of numbers must be declared
UNIQUE = 20  # with as many rows, a column of texts that never repeat is left out
_IDENTIFIER = re.compile(r"(|.*[\W_]id|.*[a-z]Id|id|ID|index|Unnamed: 0|row.?(names?|id|number)?)")


@dataclass(frozen=True)
class ColumnSchema:
    """What one column means.

    kind: number; category; date, in seconds from 1970 in UTC; or ignore, for what no model uses.
    labels: of a category, in the order of their codes.
    form: of a date's text: "iso", or a format of `datetime.strptime`.
    low, high: the range in the training table.  gaps: the share of its rows that lack a value.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    form: str = ""
    low: float = math.nan
    high: float = math.nan
    gaps: float = 0.0


@dataclass
class Tally:
    """What a model meets that its training table did not hold, added up over tables."""

    n_rows: int = 0
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, name: str, problem: str, count: int, example: object = "") -> None:
        """Count rows with one of the problems "unseen", "outside" and "gaps" in a column."""
        if count:
            self.counts[name, problem] = self.counts.get((name, problem), 0) + count
            self.examples.setdefault((name, problem), str(example))

    def messages(self) -> list[str]:
        """Return a line for each column and problem."""
        said = {
            "unseen": "hold a label that was never seen in training, such as {!r}",
            "outside": "are far outside the range of the training table, such as {}",
            "gaps": "lack a value, and none did in training",
        }
        return [
            f"column {name!r}: {count} of {self.n_rows} rows "
            + said[problem].format(self.examples[name, problem])
            for (name, problem), count in self.counts.items()
        ]


def described(
    table: Table,
    name: str,
    kind: str | None,
    decimal: str,
    max_labels: int,
    notes: list[str],
) -> ColumnSchema:
    """Return what one column means.  kind: what the user says, or None."""
    column = table.columns[name]
    if kind == "ignore":
        return ColumnSchema(name, "ignore")
    form = ""
    if kind is None:
        kind, form, note = _guessed(table, name, column, decimal)
        if note:
            notes.append(f"column {name!r}: {note}")
    elif kind.startswith("date"):
        kind, _, form = kind.partition(" ")
        if not form and column.declared != "date":
            found = date_format(column.as_texts().texts or ())
            if found is None:
                texts = column.as_texts()
                raise _misfit(table, name, texts, lambda text: moment(text, "iso"), "a date")
            form = found
    if kind == "ignore":
        return ColumnSchema(name, "ignore")
    if kind == "category":
        return category(name, column, max_labels, notes)
    meant = ColumnSchema(name, kind, form=form)  # type: ignore[arg-type]
    values = encoded(table, column, meant, decimal, Tally())
    gaps = np.isnan(values)
    low, high = (math.nan, math.nan) if gaps.all() else (np.nanmin(values), np.nanmax(values))
    share = float(gaps.mean()) if len(gaps) else 0.0
    return ColumnSchema(name, meant.kind, (), form, float(low), float(high), share)


def _guessed(table: Table, name: str, column: Column, decimal: str) -> tuple[str, str, str]:
    """Return (kind, format of a date, note) of a column of which the user says nothing."""
    named_so = not table.positional and _IDENTIFIER.fullmatch(name) is not None
    if column.texts is None:
        values = column.values
        if column.declared == "date":
            return "date", "iso", ""
        whole = bool((np.floor(values) == values).all()) and len(values) > 1
        if named_so and whole and len(np.unique(values)) == len(values):
            return "ignore", "", _left_out("is an identifier by its name, and never repeats", name)
        return "number", "", ""
    texts, counts = column.texts, column.counts()
    n_values = int(counts.sum())
    if column.declared == "category" or not texts:
        return ("category" if texts else "number"), "", ""
    plain = np.array([number(text, decimal) is not None for text in texts])
    coded = np.array([is_padded(text) or is_code(text) for text in texts])
    if plain.all() and not coded.any():
        return "number", "", ""
    if not plain.any() and (form := date_format(texts)) is not None:
        return "date", form, ""
    share = counts[plain & ~coded].sum() / n_values
    if share >= MIXED and not plain.all():
        raise _mixed(table, name, column, plain, decimal)
    if plain.all() and share >= MIXED and not any(map(is_padded, texts)):
        raise _mixed(table, name, column, ~coded, decimal)
    if len(texts) == n_values >= UNIQUE or len(texts) > max(MAX_LABELS, n_values / 2):
        if all(declared_number(text, decimal) is not None for text in texts):
            return (
                "ignore",
                "",
                _left_out(f"holds texts such as {texts[0]!r}; say number to read them so", name),
            )
        return "ignore", "", _left_out("has texts that hardly repeat, as an identifier has", name)
    return "category", "", ""


def _left_out(reason: str, name: str) -> str:
    return f"{reason}: left out; data.columns: {{{name}: category}} (or number) keeps it"


def _mixed(table: Table, name: str, column: Column, fits: np.ndarray, decimal: str) -> TableError:
    """The error for a column of numbers and other texts, with what can be set."""
    assert column.texts is not None
    bad = ~np.append(fits, True)[column.values]  # gaps fit
    row = int(bad.argmax())
    text = column.texts[column.values[row]]
    advice = [f"data.columns: {{{name}: category}} if its cells are labels"]
    if is_code(text) or declared_number(text, decimal) is not None:
        advice.append(f"data.columns: {{{name}: number}} to read it as a number")
    else:
        advice.append(f"data.missing: [{json.dumps(text)}] if it marks a gap")
    if decimal == "." and "," in text and number(text, ",") is not None:
        advice.insert(0, 'data.decimal: "," if the comma is a decimal one')
    return TableError(
        f"{table.where(row)}: column {name!r} holds {text!r} among numbers "
        f"({int(bad.sum())} of {int((column.values >= 0).sum())} cells are none); set "
        + ", or ".join(advice)
    )


def _misfit(table: Table, name: str, column: Column, read: Any, wanted: str) -> TableError:
    """The error for the first cell of texts that `read` gives None for."""
    assert column.texts is not None
    fits = np.array([*(read(text) is not None for text in column.texts), True])
    bad = ~fits[column.values]
    row = int(bad.argmax())
    return TableError(
        f"{table.where(row)}: column {name!r} holds {column.texts[column.values[row]]!r}, which is "
        f"not {wanted} ({int(bad.sum())} of {table.n_rows} rows)"
    )


def category(name: str, column: Column, max_labels: int, notes: list[str]) -> ColumnSchema:
    """Return the schema of a category with its most frequent labels; equal keys are one label."""
    texts = column.as_texts()
    assert texts.texts is not None
    counts: dict[str, int] = {}
    spelled: dict[str, str] = {}  # each key's first text in the order of the alphabet
    for text, count in sorted(zip(texts.texts, texts.counts().tolist(), strict=True)):
        counts[key(text)] = counts.get(key(text), 0) + count
        spelled.setdefault(key(text), text)
    kept = list(counts)
    if len(counts) > max_labels:
        often = sorted(counts, key=lambda each: -counts[each])[:max_labels]
        kept = [each for each in often if counts[each] > 1] or often
        notes.append(
            f"column {name!r}: has {len(counts)} labels; the {len(kept)} most frequent ones are "
            "kept, the others count as missing"
        )
    n_rows = len(texts.values)
    share = float((texts.values < 0).mean()) if n_rows else 0.0
    labels = tuple(sorted(spelled[each] for each in kept)) or ("",)
    return ColumnSchema(name, "category", labels, gaps=share)


def encoded(
    table: Table, column: Column, meant: ColumnSchema, decimal: str, tally: Tally
) -> np.ndarray:
    """Return one column as float64, and count what its description does not hold."""
    name = meant.name
    if meant.kind == "category":
        values = _codes(column.as_texts(), meant, tally)
    elif meant.kind == "date":
        values = _seconds(table, column, meant)
    else:
        values = _numbers(table, column, name, decimal)
        if (infinite := np.isinf(values)).any():
            row = int(infinite.argmax())
            raise TableError(
                f"{table.where(row)}: column {name!r} holds {values[row]}: every value must be "
                "finite"
            )
    gaps = np.isnan(values)
    if meant.kind != "category" and meant.low <= meant.high:
        width = meant.high - meant.low
        outside = (values < meant.low - width) | (values > meant.high + width)
        if width > 0 and meant.kind == "number" and outside.any():
            tally.add(name, "outside", int(outside.sum()), text_of(values[outside.argmax()]))
        if meant.gaps == 0:
            tally.add(name, "gaps", int(gaps.sum()))
    return values


def _codes(texts: Column, meant: ColumnSchema, tally: Tally) -> np.ndarray:
    assert texts.texts is not None
    places = {key(label): float(code) for code, label in enumerate(meant.labels)}
    found = np.array([*(places.get(key(text), math.nan) for text in texts.texts), math.nan])
    values: np.ndarray = found[texts.values]
    unseen = np.isnan(values) & (texts.values >= 0)
    if unseen.any():
        example = texts.texts[texts.values[unseen.argmax()]]
        tally.add(meant.name, "unseen", int(unseen.sum()), example)
    return values


def _seconds(table: Table, column: Column, meant: ColumnSchema) -> np.ndarray:
    if column.declared == "date":
        return column.values
    texts, form = column.as_texts(), meant.form or "iso"
    assert texts.texts is not None

    def read(text: str) -> float | None:
        return moment(text, form) if moment(text, "iso") is None else moment(text, "iso")

    seconds = [read(text) for text in texts.texts]
    if None in seconds:
        raise _misfit(table, meant.name, texts, read, f"a date as {form}")
    values: np.ndarray = np.array([*seconds, math.nan], np.float64)[texts.values]
    return values


def _numbers(table: Table, column: Column, name: str, decimal: str) -> np.ndarray:
    if column.texts is None:
        return column.values * 1000 if column.declared == "date" else column.values
    found = [declared_number(text, decimal) for text in column.texts]
    if None in found:
        raise _misfit(table, name, column, lambda text: declared_number(text, decimal), "a number")
    values: np.ndarray = np.array([*found, math.nan], np.float64)[column.values]
    return values
