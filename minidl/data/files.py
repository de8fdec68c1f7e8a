"""From a file to a data set: tables in text, Parquet and Arrow, arrays, images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from minidl.data import arrays
from minidl.data.dataset import Dataset
from minidl.data.frames import FRAMES
from minidl.data.kinds import Tally
from minidl.data.leaks import leaks
from minidl.data.schema import Schema
from minidl.data.tables import TableError, read_table
from minidl.data.targets import Task, target_of
from minidl.data.textfiles import Format
from minidl.errors import ParameterError

TABS = (".tsv", ".tab")
SVMLIGHT = (".svm", ".svmlight", ".libsvm")


def file(
    *,
    path: str,
    target: str | None = None,
    features: str | None = None,
    columns: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    missing: Sequence[str] = (),
    task: Task = "auto",
    drop_missing_target: bool = False,
    delimiter: str | None = None,
    decimal: Literal[".", ","] = ".",
    encoding: str = "utf-8",
    header: bool = True,
) -> Dataset:
    """The rows in a file: CSV, TSV, Parquet, Arrow, .npz, .npy, IDX images, svmlight; or gzipped.

    target: the column to predict; in .npz the name of an array, as `features` is of the inputs'.
    columns: what a column is, where the file does not tell: number, category, date, "date FORMAT"
    or ignore.  drop: columns to leave out.  missing: further texts that mark a gap.
    task auto: text, or up to 20 different whole numbers, are classes; else it is a regression.
    drop_missing_target: leave out rows without a target.
    delimiter, decimal, encoding, header: how a text file is written; by default a comma, or in .tsv
    a tab, divides cells, and the first line names the columns.
    """
    name = path.lower().removesuffix(".gz")
    if name.endswith(".npz"):
        return arrays.npz(path, features, target)
    if name.endswith(".npy"):
        return arrays.npy(path, target)
    if name.endswith(SVMLIGHT):
        return arrays.svmlight(path)
    if not name.endswith(FRAMES) and arrays.is_idx(path):
        return arrays.idx(path)
    if not target:
        raise ParameterError(
            "target",
            "must name a column; names such as 2015, null, '#x' or 'a: b' stand in quotes: "
            'target: "#x"',
        )
    mark = delimiter or ("\t" if name.endswith(TABS) else ",")
    form = Format(mark, encoding, header, decimal, tuple(missing))
    table = read_table(path, form, literal=(target,))
    found = target_of(table, target, task, form, drop_missing=drop_missing_target)
    if unknown := [each for each in drop if each not in table.columns]:
        raise ParameterError("drop", f"must name columns of the table, got {unknown[0]!r}")
    table = table.without([target, *drop])
    if len(found.rows) < table.n_rows:
        table = table.taken(found.rows)
    if not table.columns:
        raise TableError(f"{path}: holds nothing but the target {target!r}")
    kinds = {name: kind for name, kind in (columns or {}).items() if name not in drop}
    schema = Schema.infer(table, kinds, missing=form.missing, decimal=decimal)
    data = Dataset(
        "csv",
        schema.encode(table, Tally()),
        found.y,
        classes=found.classes,
        feature_names=schema.names,
        path=os.path.abspath(path),
        schema=schema,
        notes=(*found.notes, *schema.notes),
    )
    return replace(data, notes=(*data.notes, *leaks(data)))
