"""`minidl convert`: a table that is too large for memory as files that training reads in pieces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from minidl.commands.arguments import Parser, refuse_existing
from minidl.data import conversion
from minidl.data.formats import detect_format
from minidl.data.targets import Task
from minidl.errors import ParameterError
from minidl.terminal import say, warn


def convert(arguments: Sequence[str]) -> int:
    """Convert a table."""
    parser = Parser(
        "convert",
        "Write a CSV, TSV or Parquet file, read twice in pieces, as X.npy and y.npy. What its "
        "columns are is told from a sample of rows, and stands in X.npy.schema.json.",
    )
    parser.add_argument("table", metavar="TABLE", help="the file")
    parser.add_argument("--target", metavar="NAME", required=True, help="the column to predict")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the files are put")
    parser.add_argument(
        "--column",
        metavar="NAME=KIND",
        action="append",
        default=[],
        help='what a column is: number, category, date, "date FORMAT" or ignore',
    )
    parser.add_argument(
        "--missing", metavar="TEXT", action="append", default=[], help="a text that marks a gap"
    )
    parser.add_argument("--task", choices=get_args(Task), default="auto", help="default: auto")
    parser.add_argument("--drop-missing-target", action="store_true", help="leave such rows out")
    parser.add_argument(
        "--float32", action="store_true", help="half the space; numbers keep seven digits"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    options = parser.parse_args(arguments)
    if odd := [each for each in options.column if "=" not in each]:
        parser.error(f"--column takes NAME=KIND, got {odd[0]!r}")
    folder = Path(options.out)
    for name in conversion.FILES:
        refuse_existing(folder / name, force=options.force)
    form = detect_format(options.table, options.target)
    try:
        (n_rows, n_columns), notes = conversion.convert(
            options.table,
            folder,
            options.target,
            form=replace(form, missing=tuple(options.missing)),
            columns=dict(each.rsplit("=", 1) for each in options.column),
            task=options.task,
            drop_missing_target=options.drop_missing_target,
            dtype="float32" if options.float32 else "float64",
        )
    except ParameterError as error:
        parser.error(str(error))
    for note in notes:
        warn(note)
    say(f"{folder}: {n_rows} rows, {n_columns} columns; train on them with")
    say(f"  data.path={folder / 'X.npy'} data.target=y.npy")
    return 0
