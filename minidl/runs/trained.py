"""A trained model applied to files: columns by name, piece by piece, in little memory."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from minidl.data.cells import number, text_of
from minidl.data.formats import (
    COMMENTS,
    DELIMITERS,
    Format,
    decimal_of,
    encoding_of,
    open_data,
    rows_of,
)
from minidl.data.kinds import ColumnSchema, Tally
from minidl.data.readers import pieces_of, tables_of
from minidl.data.schema import Schema
from minidl.data.tables import Table, TableError, joined
from minidl.data.targets import column_of_target
from minidl.errors import ConfigError, DataError
from minidl.kernels import Array
from minidl.predictor import Predictor, load
from minidl.runs.folder import RunFolder

STANDARD_INPUT = "-"
FORMAT = tuple(field.name for field in fields(Format))


class Trained:
    """A trained model, and how the files are written that it was trained on.

    data: options of the data set that it was trained on, as in a config: target, delimiter, ...
    tally: what the tables held so far that the training table did not.
    """

    def __init__(self, predictor: Predictor, data: Mapping[str, Any]) -> None:
        self.predictor, self.data = predictor, data
        self.tally = Tally()
        self.unused: list[str] | None = None  # columns of the first table that are ignored
        names = predictor.feature_names or [f"feature {j}" for j in range(predictor.n_features)]
        self._schema = predictor.schema or Schema.plain(names)

    @classmethod
    def find(cls, path: str) -> Self:
        """The model of a run folder, or of a model file.

        Raises ConfigError where there is none, CheckpointError for a damaged one.
        """
        folder = RunFolder(Path(path))
        if not os.path.isdir(path):
            predictor = load(path)
        elif os.path.exists(folder.model):
            predictor = load(folder.model)
        elif os.path.exists(folder.lock):
            raise ConfigError(
                f"{path}: has no model yet; train the run to its end by minidl train --resume"
            )
        else:
            raise ConfigError(f"{path}: is neither a run folder nor a model file")
        return cls(predictor, (predictor.notes or {}).get("data", {}))

    @property
    def classes(self) -> list[str] | None:
        """The labels as texts, in the order of the probabilities; None for a regression."""
        labels = self.predictor.classes
        return None if labels is None else [text_of(label) for label in labels]

    def pieces(self, path: str, keep: Sequence[str] = ()) -> Iterator[tuple[Table, Array]]:
        """Read a file, "-" for standard input, in pieces of some 16,000 rows, with their outputs.

        keep: columns that are wanted as they are written.  Raises DataError for columns that are
        missing and for cells that do not fit their column.
        """
        for table in self._tables(path, keep=keep):
            if self.unused is None:
                if absent := [name for name in keep if name not in table.columns]:
                    raise TableError(f"{table.source}: has no column {absent[0]!r} to keep")
                known = {column.name for column in self._schema.columns}
                known |= {str(self.data.get("target")), *keep, *self.data.get("drop", ())}
                unknown = [name for name in table.columns if name not in known]
                self.unused = [] if table.positional else unknown
            yield table, self.outputs(table, keep)

    def outputs(self, table: Table, keep: Sequence[str] = ()) -> Array:
        """Return the model's outputs for the rows of one table."""
        predictor = self.predictor
        inputs = table.without(keep) if predictor.feature_names is None else table
        X = self._schema.encode(self._by_place(inputs), self.tally)
        if not predictor.preprocessing.takes_missing and (gaps := np.isnan(X)).any():
            row, column = np.argwhere(gaps)[0]
            raise TableError(
                f"{table.where(int(row))}: column {self._schema.names[column]!r} has no value, and "
                "this model was trained without gaps"
            )
        return predictor.outputs(X)

    def target_names(self, given: Sequence[str]) -> list[str]:
        """The columns that hold the targets, if none are given: one, or of several labels each."""
        if len(given) > 1 and self.classes is not None and not self.predictor.has_several_labels:
            raise ConfigError("the model predicts one target: give --target once")
        if given or self.predictor.has_several_labels:
            return list(given or self.classes or ())
        if (name := self.data.get("target")) is None:
            raise ConfigError("what the model predicts is not known; name each by --target COLUMN")
        return [name]

    def table(self, path: str, targets: Sequence[str]) -> Table:
        """The whole table of a file whose targets are known."""
        return joined([*self._tables(path, rows=2**62, literal=targets)])

    def targets(self, table: Table, names: Sequence[str]) -> Array:
        """The targets of a table, a column or several: class numbers, or numbers; NaN for gaps.

        Raises TableError.
        """
        columns, tally = [], Tally()
        for name in names:
            meant = ColumnSchema(name, "number")
            if self.classes is not None and not self.predictor.has_several_labels:
                meant = ColumnSchema(name, "category", labels=tuple(self.classes))
            column = column_of_target(table, name)
            columns.append(meant.encode(table, column, self._schema.decimal, tally))
            if tally.found:
                raise TableError(
                    f"{table.source}: the target {name!r} holds labels that the model does not "
                    f"know, such as {tally.found[name, 'unseen'][1]!r}"
                )
        return columns[0] if len(names) == 1 else np.stack(columns, axis=1)

    def _tables(self, path: str, **options: Any) -> Iterator[Table]:
        if path == STANDARD_INPUT:
            file = sys.stdin.buffer
            try:
                return tables_of(file, self._form(file, path), **options)
            except OSError as error:  # such as a folder
                raise DataError(f"standard input cannot be read: {error.strerror}") from error
        with open_data(path) as opened:
            form = self._form(opened, path)
        return pieces_of(path, form, **options)

    def _form(self, file: IO[bytes], path: str) -> Format:
        """How a file is written: as the training table was, unless it shows something else."""
        options = {key: self.data[key] for key in FORMAT if self.data.get(key) is not None}
        options.setdefault("decimal", self._schema.decimal)
        options["missing"] = tuple(options.get("missing", self._schema.missing))
        encoding = options.get("encoding", "utf-8")
        if path != STANDARD_INPUT:
            encoding = options["encoding"] = encoding_of(path, encoding)
        start = file.peek(2**16).decode(encoding, "replace") if hasattr(file, "peek") else ""
        lines = start.lstrip("\ufeff").splitlines()
        n = next((i for i, line in enumerate(lines, 1) if not line.startswith(COMMENTS)), 1)
        if not options.get("header", True) or not lines:
            return Format(**options)
        names = {column.name for column in self._schema.columns}

        def n_known(delimiter: str) -> int:
            cells = (cell.strip(' "') for line in lines[:n] for cell in line.split(delimiter))
            return len(names & {*cells})

        given = options.get("delimiter", "\t" if ".tsv" in path.lower() else ",")
        options["delimiter"] = max([given, *DELIMITERS], key=n_known)
        if options["delimiter"] == options["decimal"]:  # as pandas writes what was read from Excel
            options["decimal"] = "."
        if options["delimiter"] != ",":
            titles, *rows = rows_of(lines[n - 1 :], options["delimiter"]) or [[]]
            numbers = {column.name for column in self._schema.columns if column.kind == "number"}
            places = [j for j, name in enumerate(titles) if name in numbers]
            cells = [row[j] for row in rows for j in places if j < len(row)]
            options["decimal"] = decimal_of(cells, options["decimal"])
        if not n_known(options["delimiter"]):  # rather a row of numbers than names
            row = lines[n - 1].replace(options["decimal"], ".").split(options["delimiter"])
            options["header"] = any(number(cell) is None for cell in row)
        return Format(**options)

    def _by_place(self, table: Table) -> Table:
        """The table, with its columns named in order where the model knows no names."""
        if self.predictor.feature_names is not None:
            return table
        table = table.without([self.data.get("target", "")])
        if len(table.columns) != self.predictor.n_features:
            raise TableError(
                f"{table.source}: the model takes {self.predictor.n_features} columns, got "
                f"{len(table.columns)}"
            )
        columns = dict(zip(self._schema.names, table.columns.values(), strict=True))
        return Table(columns, table.n_rows, table.source, table.lines)
