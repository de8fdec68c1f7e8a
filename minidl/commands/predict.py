"""`minidl predict`: the rows of a file with what a trained model says of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidl.atomic import replace_file
from minidl.commands.arguments import Parser, refuse_existing
from minidl.data.tables import listed
from minidl.runs.trained import STANDARD_INPUT, Predictions, Trained
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
        for found in trained.predictions(options.data, keep):
            if n_rows == 0:
                put(_lines([_titles(trained, found, keep, proba=options.proba)]))
            put(_lines(zip(*_columns(found, keep, proba=options.proba), strict=True)))
            n_rows += found.table.n_rows

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


def _titles(trained: Trained, found: Predictions, keep: Sequence[str], *, proba: bool) -> list[str]:
    labels = trained.classes or []
    predicted = ["prediction"]
    if found.predicted.ndim == 2:
        names = labels or [str(j) for j in range(1, found.predicted.shape[1] + 1)]
        predicted = [f"prediction_{name}" for name in names]
    return [*keep, *predicted, *(f"probability_{label}" for label in labels if proba)]


def _columns(found: Predictions, keep: Sequence[str], *, proba: bool) -> list[Any]:
    """The columns of the output; `str` of NumPy's numbers is the shortest that gives the same."""
    columns: list[Any] = [found.kept(name) for name in keep]
    columns += [found.predicted] if found.predicted.ndim == 1 else [*found.predicted.T]
    if proba and found.probabilities is not None:
        columns += [*found.probabilities.T]
    return columns


def _lines(rows: object) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()
