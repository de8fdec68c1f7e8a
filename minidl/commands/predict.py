"""`minidl predict`: the rows of a file with what a trained model says of them."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.atomic import replace_file
from minidl.commands.arguments import Parser, refuse_existing
from minidl.data.tables import Table, listed
from minidl.evaluation import class_probabilities, decided
from minidl.kernels import Array
from minidl.runs.trained import STANDARD_INPUT, Trained
from minidl.terminal import put_data, say, warn


def predict(arguments: Sequence[str]) -> int:
    """Predict the rows of a file."""
    parser = Parser(
        "predict",
        "Predict the rows of a CSV, TSV, Parquet or Arrow file. Columns are taken by name, in any "
        "order; those that the model does not use are ignored.",
    )
    parser.add_argument("model", metavar="RUN|MODEL", help="a run folder, or a model file")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        default=STANDARD_INPUT,
        help="the file with the rows (default: -, standard input)",
    )
    parser.add_argument("--out", metavar="FILE", help="a CSV file (default: standard output)")
    parser.add_argument(
        "--proba", action="store_true", help="add the probability of each class, one column a class"
    )
    parser.add_argument(
        "--keep",
        metavar="COLUMN",
        action="append",
        default=[],
        help="put this column, such as an id, in front of the predictions; may be given again",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    if options.out is not None:
        refuse_existing(Path(options.out), force=options.force)
    trained = Trained.find(options.model)
    if options.proba and trained.classes is None:
        parser.error("--proba is for classifiers; this model is a regression")
    keep = tuple(dict.fromkeys(options.keep))
    n_rows = 0

    def write(put: Callable[[str], object]) -> None:
        nonlocal n_rows
        for table, outputs in trained.pieces(options.data, keep):
            found = _columns(trained, table, outputs, keep, proba=options.proba)
            titles, columns = zip(*found, strict=True)
            if n_rows == 0:
                put(_lines([titles]))
            put(_lines(zip(*columns, strict=True)))
            n_rows += table.n_rows

    if options.out is None:
        write(put_data)
    else:
        replace_file(Path(options.out), lambda file: write(lambda text: file.write(text.encode())))
    if trained.unused:
        warn(f"ignored columns that the model does not use: {listed(trained.unused)}")
    for message in trained.tally.messages():
        warn(message)
    if options.out is not None:
        say(f"{n_rows} predictions written to {options.out}")
    return 0


def _columns(
    trained: Trained, table: Table, outputs: Array, keep: Sequence[str], *, proba: bool
) -> list[tuple[str, Any]]:
    """The columns of the output and their titles; `str` of a number is the shortest that is it."""
    loss_function, classes = trained.predictor.loss_function, trained.classes
    labels = None if classes is None else np.array(classes, dtype=object)
    predicted = decided(loss_function, outputs, labels)
    columns: list[tuple[str, Any]] = [(name, _written(table, name)) for name in keep]
    if predicted.ndim == 1:
        columns.append(("prediction", predicted))
    else:
        names = classes or range(1, predicted.shape[1] + 1)
        columns += zip((f"prediction_{name}" for name in names), predicted.T, strict=True)
    if proba and classes is not None:
        p = class_probabilities(loss_function.predict(outputs), len(classes))
        columns += zip((f"probability_{label}" for label in classes), p.T, strict=True)
    return columns


def _written(table: Table, name: str) -> list[str]:
    """The cells of a column as they are written in the file."""
    if name in table.written:
        return table.written[name]
    column = table.columns[name].as_texts()
    return list(np.array([*(column.texts or ()), ""], dtype=object)[column.values])


def _lines(rows: object) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()
