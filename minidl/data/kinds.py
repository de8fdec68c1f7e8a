"""Kinds of columns: a number, a category, a date, or nothing that a model could use.

The kind of a column is told from all its cells, or given by the user. A column of numbers with
other texts in it is an error, never silently a category.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import numpy as np

from minidl.data.cells import (
    ISO,
    date_format,
    declared_number,
    is_code,
    is_padded,
    key,
    moment,
    number,
)
from minidl.data.tables import Column, Table, TableError, yaml_key

Kind = Literal["number", "category", "date", "ignore"]
KINDS = get_args(Kind)

MAX_LABELS = 100  # of a column; rarer ones count as missing
MIXED = 0.1  # a column of texts with a larger share of numbers must be declared
UNIQUE = 20  # with as many rows, a column of texts that never repeat is left out
_IDENTIFIER = re.compile(r"(|.*[\W_]id|.*[a-z]Id|id|ID|index|Unnamed: 0|row.?(names?|id|number)?)")


@dataclass
class Tally:
    """What a model meets that its training table did not hold, added up over tables."""

    n_rows: int = 0
    found: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, name: str, problem: str, count: int, example: str) -> None:
        """Count rows with one of the problems "unseen", "outside" and "gaps" in a column."""
        before, first = self.found.get((name, problem), (0, example))
        self.found[name, problem] = before + count, first

    def messages(self) -> list[str]:
        """Return a line for each column and problem."""
        said = {
            "unseen": "hold a label that training did not see or keep, such as {!r}",
            "outside": "are far outside the range of the training table, such as {}",
            "gaps": "lack a value, and none did in training",
        }
        return [
            f"column {name!r}: {count} of {self.n_rows} rows {said[problem].format(example)}"
            for (name, problem), (count, example) in self.found.items()
        ]


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

    @classmethod
    def infer(
        cls,
        table: Table,
        name: str,
        kind: str | None = None,
        *,
        decimal: str = ".",
        max_labels: int = MAX_LABELS,
    ) -> tuple[Self, str]:
        """Return what a column means, and a note for the person who trains, or "".

        kind: what the user says, such as "date %d.%m.%Y", or None.  Raises TableError for a cell
        that does not fit.
        """
        column, note = table.columns[name], ""
        if kind is None:
            kind, note = _guessed(table, name, column, decimal)
        kind, _, form = kind.partition(" ")
        if kind == "ignore":
            return cls(name, "ignore"), note
        if kind == "category":
            labels, note = _labels(name, column.as_texts(), decimal, max_labels)
            return cls(name, "category", labels, gaps=_share(column.gaps)), note
        if kind == "date" and not form:
            form = ISO
            if column.declared != "date":
                form = date_format(column.as_texts().texts or ()) or ISO
        meant = cls(name, kind, form=form)  # type: ignore[arg-type]
        values = meant.encode(table, column, decimal, Tally())
        gaps = np.isnan(values)
        low, high = (math.nan, math.nan) if gaps.all() else (np.nanmin(values), np.nanmax(values))
        return cls(name, meant.kind, (), form, float(low), float(high), _share(gaps)), note

    def encode(self, table: Table, column: Column, decimal: str, tally: Tally) -> np.ndarray:
        """Return the cells of a column as float64: numbers, codes of labels, seconds; NaN for gaps.

        Labels that are not known are NaN too, and added to `tally`.  Raises TableError for a cell
        that does not fit.
        """
        wanted = None if self.kind == "number" else self.kind
        if column.texts is None and column.declared == wanted:
            values = column.values
        else:
            column = column.as_texts()
            assert column.texts is not None
            read = self._reader(decimal)
            values = np.array([*map(read, column.texts), None], np.float64)[column.values]
            unread = np.isnan(values) & (column.values >= 0)
            if unread.any():
                place, text = first_cell(table, self.name, column, unread)
                if self.kind != "category":
                    form = f" as {self.form}" if self.form not in ("", ISO) else ""
                    raise TableError(
                        f"{place}, which is not a {self.kind}{form} "
                        f"({unread.sum()} of {table.n_rows} rows)"
                    )
                tally.add(self.name, "unseen", int(unread.sum()), text)
        if self.kind == "number" and (infinite := np.isinf(values)).any():
            row = int(infinite.argmax())
            raise TableError(
                f"{table.where(row)}: column {self.name!r} holds {values[row]}: every value must "
                "be finite"
            )
        return values

    def _reader(self, decimal: str) -> Callable[[str], float | None]:
        """From the text of a cell to its number, or None."""
        if self.kind == "category":
            places = {key(label, decimal): float(j) for j, label in enumerate(self.labels)}
            return lambda text: places.get(key(text, decimal))
        if self.kind == "number":
            return lambda text: declared_number(text, decimal)
        forms = dict.fromkeys((ISO, self.form or ISO))
        return lambda text: next((s for f in forms if (s := moment(text, f)) is not None), None)


def _guessed(table: Table, name: str, column: Column, decimal: str) -> tuple[str, str]:
    """Return the kind of a column of which the user says nothing, and a note or ""."""

    def left_out(reason: str) -> tuple[str, str]:
        kept = f"{_setting(table, name)} (or number) keeps it"
        return "ignore", f"column {name!r}: {reason}: left out; {kept}"

    if column.texts is None:
        if column.declared == "date":
            return "date", ""
        values, named_so = column.values, _IDENTIFIER.fullmatch(name) and not table.positional
        whole = len(values) > 1 and bool((np.floor(values) == values).all())
        if named_so and whole and len(np.unique(values)) == len(values):
            return left_out("is an identifier by its name, and never repeats")
        return "number", ""
    texts, counts = column.texts, column.counts()
    if column.declared == "category" or not texts:
        return ("category" if texts else "number"), ""
    plain = np.array([number(text, decimal) is not None for text in texts])
    coded = np.array([is_padded(text) or is_code(text) for text in texts])
    if plain.all() and not coded.any():
        return "number", ""
    if not plain.any() and (form := date_format(texts)) is not None:
        return f"date {form}", ""
    if counts[plain & ~coded].sum() >= MIXED * counts.sum():
        if not plain.all():
            raise _mixed(table, name, column, plain, decimal)
        if not any(map(is_padded, texts)):
            raise _mixed(table, name, column, ~coded, decimal)
    if hardly_repeat(column):
        reason = "has texts that hardly repeat, as an identifier has"
        if all(declared_number(text, decimal) is not None for text in texts):
            reason = f"holds texts such as {texts[0]!r}; say number to read them so"
        return left_out(reason)
    return "category", ""


def hardly_repeat(column: Column) -> bool:
    """Whether a column of texts is more likely one of identifiers than of labels."""
    n_texts, n_values = len(column.texts or ()), int(column.counts().sum())
    return n_texts == n_values >= UNIQUE or n_texts > max(MAX_LABELS, n_values / 2)


def _setting(table: Table, name: str, kind: str = "category") -> str:
    """Return how a user says the kind of a column: to an estimator, or in a config."""
    if table.is_argument:
        return f"columns={{{name!r}: {kind!r}}}"
    return f"data.columns: {{{yaml_key(name)}: {kind}}}"


def _mixed(table: Table, name: str, column: Column, fits: np.ndarray, decimal: str) -> TableError:
    """The error for a column of numbers and other texts, with what can be set."""
    bad = ~np.append(fits, True)[column.values]  # gaps fit
    place, text = first_cell(table, name, column, bad)
    advice = [f"{_setting(table, name)} if its cells are labels"]
    if is_code(text) or declared_number(text, decimal) is not None:
        advice.append(f"{_setting(table, name, 'number')} to read it as a number")
    elif table.is_argument:
        advice.append(f"missing=[{text!r}] if it marks a gap")
    else:
        advice.append(f"data.missing: [{json.dumps(text)}] if it marks a gap")
    if not table.is_argument and decimal == "." and "," in text and number(text, ",") is not None:
        advice.insert(0, 'data.decimal: "," if the comma is a decimal one')
    return TableError(
        f"{place} among numbers ({bad.sum()} of {(column.values >= 0).sum()} cells are none); set "
        + ", or ".join(advice)
    )


def first_cell(table: Table, name: str, column: Column, wanted: np.ndarray) -> tuple[str, str]:
    """Return where the first wanted cell is and what it holds, for a message; and its text."""
    row = int(wanted.argmax())
    text = (column.texts or ())[column.values[row]]
    return f"{table.where(row)}: column {name!r} holds {text!r}", text


def _labels(
    name: str, column: Column, decimal: str, max_labels: int
) -> tuple[tuple[str, ...], str]:
    """Return the most frequent labels of a column of texts, equal keys as one, and a note or ""."""
    counts: dict[str, int] = {}
    spelled: dict[str, str] = {}  # each key's first text in the order of the alphabet
    for text, count in sorted(zip(column.texts or (), column.counts().tolist(), strict=True)):
        same = key(text, decimal)
        counts[same] = counts.get(same, 0) + count
        spelled.setdefault(same, text)
    kept, note = list(counts), ""
    if len(counts) > max_labels:
        often = sorted(counts, key=lambda each: -counts[each])[:max_labels]
        kept = [each for each in often if counts[each] > 1] or often
        note = (
            f"column {name!r}: has {len(counts)} labels; the {len(kept)} most frequent ones are "
            "kept, the others count as missing"
        )
    return tuple(sorted(spelled[each] for each in kept)) or ("",), note


def _share(of_rows: np.ndarray) -> float:
    return float(of_rows.mean()) if len(of_rows) else 0.0
