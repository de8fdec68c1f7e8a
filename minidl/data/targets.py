"""The target column of a table as class numbers or as numbers, and columns that tell it alone."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from minidl.data.cells import is_word
from minidl.data.formats import Format
from minidl.data.kinds import ColumnSchema, Tally
from minidl.data.schema import Schema
from minidl.data.tables import Column, Table, TableError, listed, yaml_key

Task = Literal["auto", "classification", "regression"]

MOST_OF_ALL = 0.9  # a larger share of one class is said
LEAST_ROWS, MOST_ROWS, MOST_COLUMNS = 50, 5000, 200  # for `leaks`
LEAK = 0.995
LEAST_OTHERS = 20  # rows outside the most frequent class
MAX_CLASSES = 20  # a column of whole numbers with more different ones is a regression's target


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be predicted.

    y: (n_rows,) class numbers, int64, or float64.  classes: the labels; None for a regression.
    rows: which rows of the table have a target.  notes: what the person who trains should know.
    """

    y: np.ndarray
    classes: tuple[Any, ...] | None
    rows: np.ndarray
    notes: tuple[str, ...] = ()


def target_of(
    table: Table,
    name: str,
    task: Task = "auto",
    form: Format | None = None,
    *,
    drop_missing: bool = False,
) -> Target:
    """Return the target column of that name.

    task auto: text, or up to MAX_CLASSES different whole numbers, are classes; else a regression.
    form: how the table was written.  drop_missing: whether rows without a target are left out.
    Raises TableError for a column that is not there, for gaps, and for labels in a regression.
    """
    column, form = column_of_target(table, name), form or Format()
    meant, by_text = ColumnSchema(name, "number"), column.texts is not None
    if by_text and task != "regression":
        most, decimal = table.n_rows + 1, form.decimal
        meant, _ = ColumnSchema.infer(table, name, "category", decimal=decimal, max_labels=most)
    values = meant.encode(table, column, form.decimal, Tally())
    notes = []
    gaps = np.isnan(values)
    if gaps.any():
        what = f"the target {name!r} is missing in {gaps.sum()} of {len(gaps)} rows"
        if not drop_missing:
            raise TableError(
                f"{table.where(int(gaps.argmax()))}: {what}; set data.drop_missing_target: true "
                "to leave them out"
            )
        if gaps.all():
            raise TableError(f"{table.source}: {what}")
        notes.append(f"{what}: left out")
    rows = np.flatnonzero(~gaps)
    values = values[rows]
    labels: tuple[Any, ...] = meant.labels
    kind, reason = "labels", "they hardly repeat, so there is nothing to learn"
    if meant.kind == "number":
        different = np.unique(values)
        whole = bool((different == np.round(different)).all())
        few = len(different) <= min(MAX_CLASSES, max(2, len(values) / 3))
        if task == "regression" or (task == "auto" and not (few and whole)):
            return Target(values, None, rows, tuple(notes))
        labels = tuple(int(value) if value.is_integer() else value for value in different.tolist())
        values, kind = np.searchsorted(different, values), "numbers"
        reason = "that is a regression; set data.task: regression and a loss such as mse"
    if len(labels) > max(MAX_CLASSES, len(values) / 2):
        raise TableError(
            f"{table.source}: the target {name!r} holds {len(labels)} different {kind} in "
            f"{len(values)} rows: {reason}"
        )
    y = values.astype(np.int64)
    notes += [
        f"the target {name!r} holds {label!r} ({(y == code).sum()} rows), which is taken "
        f"for a class; if it marks a gap, set data.missing: [{label}]"
        for code, label in enumerate(labels)
        if is_word(str(label), form.missing)
    ]
    counts = np.bincount(y, minlength=len(labels))
    notes += [
        f"the target {name!r} has a single row of class {label!r}: it is trained on, not tested"
        for label, count in zip(labels, counts, strict=True)
        if count == 1
    ]
    if len(labels) > 1 and counts.max() > MOST_OF_ALL * len(y):
        notes.append(
            f"the target {name!r} is uneven: {counts.max()} of {len(y)} rows are of class "
            f"{labels[counts.argmax()]!r}; the balanced accuracy says more than the accuracy"
        )
    return Target(y, labels, rows, tuple(notes))


def column_of_target(table: Table, name: str) -> Column:
    """Return the column of that name.  Raises TableError with the nearest ones."""
    if name in table.columns:
        return table.columns[name]
    hint = f"it has {listed(list(table.columns))}"
    if near := get_close_matches(name, table.columns, n=3):
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif len(table.columns) == 1:
        hint += ": are its cells divided by another data.delimiter?"
    raise TableError(f"{table.source}: has no column {name!r} for the target; {hint}")


def leaks(
    schema: Schema, X: np.ndarray, y: np.ndarray, classes: tuple[Any, ...] | None
) -> list[str]:
    """Return a note for each column of X that alone tells the target: it may be known too late.

    A small decision tree on one column is right in LEAK of the rows, and in 19 of 20 of those
    outside the most frequent class; or a column of numbers has the order of a regression's target.
    """
    from scipy.stats import rankdata
    from sklearn.tree import DecisionTreeClassifier

    rows = np.unique(np.linspace(0, len(y) - 1, MOST_ROWS).astype(np.int64))
    X, y = X[rows], y[rows]
    few = len(rows) < max(LEAST_ROWS, 10 * len(classes or ()))
    n_others = len(rows) if classes is None else len(rows) - np.bincount(y).max()
    if few or n_others < LEAST_OTHERS or not 1 < X.shape[1] <= MOST_COLUMNS:
        return []
    notes = []
    for j, name in enumerate(schema.names):
        x = rankdata(np.where(np.isnan(X[:, j]), -np.inf, X[:, j]))  # a tree takes float32 only
        if classes is None:
            varied = np.ptp(x) > 0 and np.ptp(y) > 0
            score = abs(np.corrcoef(x, rankdata(y))[0, 1]) if varied else 0.0
            said = f"has the order of the target (rank correlation {score:.4f})"
        else:
            n_labels = len(np.unique(x)) if schema.labels[j] else 2
            if n_labels > len(rows) / 5:  # labels of few rows tell any target
                continue
            most = max(2 * len(classes), n_labels)
            tree = DecisionTreeClassifier(max_leaf_nodes=most, random_state=0)
            score = tree.fit(x[:, None], y).score(x[:, None], y)
            score *= (1 - score) * len(rows) <= n_others / 20
            said = f"alone tells the target in {score:.1%} of the rows"
        if score >= LEAK:
            notes.append(
                f"column {name!r} {said}: is it known before the target is? If not, set "
                f"data.drop: [{yaml_key(name)}]"
            )
    return notes
