"""What a text file looks like before anyone has said: its format, its columns, and what is odd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidl.data.cells import is_code, is_padded, is_word, number, signed_number, text_of
from minidl.data.formats import NO_TABLES, Format, detect_format
from minidl.data.kinds import ColumnSchema, Tally, first_cell, hardly_repeat
from minidl.data.readers import read_table
from minidl.data.schema import Schema
from minidl.data.tables import Table, TableError
from minidl.data.targets import MAX_CLASSES, Target, Task, column_of_target, leaks, target_of
from minidl.errors import DataError

MOST_WORDS = 3  # a column of numbers has at most as many texts that mark a gap
BAD, MOST_BAD = 0.1, 20  # or so many different ones, in this share of its cells


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    columns: all but the target: the kind of each, as `data.columns` takes it, and why.
    warnings: what the person who trains should look at.
    """

    form: Format
    target: Target
    columns: Mapping[str, tuple[str, str]]
    warnings: Sequence[str]
    n_rows: int


def inspect(path: str, target: str, task: Task = "auto") -> Inspection:
    """Look at a file and tell what it holds.  Raises DataError for what is no table."""
    if path.lower().removesuffix(".gz").endswith(NO_TABLES):
        raise DataError(f"{path}: is no table by its name; name a text file .csv, for example")
    form = detect_format(path, target)
    table = read_table(path, form, literal=(target,))
    given, words, warnings = _odd_cells(table, target, form.decimal)
    if words:
        form = replace(form, missing=words)
        table = read_table(path, form, literal=(target,))
    if given.pop(target, "") and task == "auto":
        task = "regression"
    found = target_of(table, target, task, form, drop_missing=True)
    if found.classes is not None and len(found.classes) == 1:
        raise TableError(
            f"{path}: the target {target!r} is {found.classes[0]!r} in all rows that have it"
        )
    rest = table.without([target]).taken(found.rows)
    columns, used = dict[str, tuple[str, str]](), list[ColumnSchema]()
    warnings += found.notes
    for name, column in rest.columns.items():
        try:
            meant, note = ColumnSchema.infer(rest, name, given.get(name), decimal=form.decimal)
        except TableError as error:
            if hardly_repeat(column):
                said = "holds numbers and other texts, which hardly repeat"
                meant, note = ColumnSchema(name, "ignore"), f"column {name!r}: {said}"
            else:
                meant, note = ColumnSchema.infer(rest, name, "category", decimal=form.decimal)
                warnings.append(f"{error}: taken for a category")
        kind: str = meant.kind
        n = len(np.unique(column.values[~column.gaps]))
        reason = f"{meant.low:g} to {meant.high:g}"
        if kind == "ignore":
            reason = note.removeprefix(f"column {name!r}: ").partition(":")[0]
        elif n <= 1:
            kind, reason = "ignore", "the same in all rows"
        elif kind == "category":
            few = ", ".join(meant.labels[:4]) + (", ..." if len(meant.labels) > 4 else "")
            reason = f"{n} labels: {few}"
        elif kind == "date":
            kind, reason = f"date {meant.form}".removesuffix(" iso"), f"{n} dates"
        if kind == "ignore":
            note = f"column {name!r} is left out: {reason}"
        else:
            used.append(meant)
            reason += f", {meant.gaps:.1%} missing" if meant.gaps else ""
        warnings += [note] if note else []
        columns[name] = kind, reason
    if not used:
        said = "; ".join(f"{name!r} {reason}" for name, (_, reason) in list(columns.items())[:5])
        raise TableError(f"{path}: has no column to learn from: {said or 'only the target'}")
    schema = Schema(tuple(used), form.missing, form.decimal)
    warnings += leaks(schema, schema.encode(rest, Tally()), found.y, found.classes)
    return Inspection(form, found, columns, warnings, table.n_rows)


def _odd_cells(
    table: Table, target: str, decimal: str
) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    """The kinds of columns of numbers that hold other cells too, texts that mark a gap, and notes.

    Such as "$5" and "1,234"; and a few like "-" or "#DIV/0!", which can only mark a gap.
    """
    kinds, texts = dict[str, str](), column_of_target(table, target).texts or ()
    words = {text for text in texts if is_word(text) and text.lower() != "none"}
    if len(texts) - len(words) < 2:  # what would be left is no more than one class
        words = set()
    notes = [
        f"the target {target!r} holds {text!r}: taken for a gap, as data.missing says; if it is a "
        "class, take it out there"
        for text in sorted(words)
    ]
    for name, column in table.columns.items():
        texts = column.texts or ()
        infinite = column.values[np.isinf(column.values)]
        if len(infinite) and name != target:
            words |= {text_of(value) for value in infinite}
            place = table.where(int(np.isinf(column.values).argmax()))
            notes.append(
                f"{place}: column {name!r} holds {text_of(infinite[0])!r}: such cells "
                f"({len(infinite)}) are taken for gaps"
            )
        if not texts or column.declared or (name == target and len(texts) <= MAX_CLASSES):
            continue
        plain = np.array([number(text, decimal) is not None for text in texts])
        values = np.array([signed_number(text, decimal) for text in texts], np.float64)
        read = np.isfinite(values)
        coded = any(is_padded(text) or is_code(text) for text in texts)
        odd = np.array(texts)[~read].tolist()
        share = column.counts()[~read].sum() / (~column.gaps).sum()
        marks = 2 * share <= 1 and len(odd) <= MOST_WORDS and len(texts) > 10
        marks = marks and not any(c.isdigit() for text in odd for c in text)
        if coded or plain.all() or not (marks or (share <= BAD and len(odd) <= MOST_BAD)):
            continue
        kinds[name] = "number"
        words |= set(odd)
        for some, said in ((read & ~plain, "read as numbers"), (~read, "taken for gaps")):
            if some.any():
                where = np.append(some, False)[column.values]
                place, _ = first_cell(table, name, column, where)
                notes.append(f"{place}: such cells ({where.sum()}) are {said}")
    return kinds, tuple(sorted(words)), notes
