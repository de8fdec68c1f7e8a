"""A table that is too large for memory, as a pair of .npy files that training reads in pieces."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Literal

import numpy as np

from minidl.atomic import replace_file
from minidl.data.files import MEANING
from minidl.data.formats import Format
from minidl.data.kinds import Tally
from minidl.data.readers import pieces_of
from minidl.data.schema import Schema
from minidl.data.tables import TableError, joined
from minidl.data.targets import Task, column_of_target, target_of
from minidl.errors import ConfigError

FILES = ("X.npy", f"X.npy{MEANING}", "y.npy")
SAMPLE_PIECES = 64  # of the table, from which it is told what its columns are


def convert(
    path: str,
    folder: Path,
    target: str,
    *,
    form: Format,
    columns: Mapping[str, str],
    task: Task = "auto",
    drop_missing_target: bool = False,
    dtype: Literal["float64", "float32"] = "float64",
) -> tuple[tuple[int, int], list[str]]:
    """Write FILES: X, what its numbers mean, and y; return the shape of X, and what to know.

    The arguments are those of `data.path` for a table.  It is read twice, in pieces; in memory are
    one piece, SAMPLE_PIECES pieces at even distances at most, and the target.
    dtype: float64 gives the bits of training from the table itself, float32 takes half the space.
    """
    targets, sample, step = [], [], 1
    pieces = partial(pieces_of, path, form, rows=1, literal=(target,))
    for number, piece in enumerate(pieces()):
        column_of_target(piece, target)  # raises where there is none
        targets.append(piece.without(set(piece.columns) - {target}))
        if number % step == 0:
            sample.append(piece.without([target]))
        if len(sample) > SAMPLE_PIECES:
            sample, step = sample[::2], 2 * step
    words, decimal = form.missing, form.decimal
    all_targets = joined(targets, decimal)
    found = target_of(all_targets, target, task, form, drop_missing=drop_missing_target)
    kept = np.zeros(all_targets.n_rows, bool)
    kept[found.rows] = True
    inferred = Schema.infer(joined(sample, decimal), columns, missing=words, decimal=decimal)
    unlimited = (replace(each, low=np.nan, high=np.nan, gaps=1.0) for each in inferred.columns)
    schema, shape = replace(inferred, columns=tuple(unlimited)), (len(found.y), len(inferred.used))
    X_file, meaning_file, y_file = (folder / name for name in FILES)
    tally, gaps = Tally(), np.zeros(shape[1])
    low, high = np.full((2, shape[1]), np.nan)

    def write(file: IO[bytes]) -> None:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for piece in pieces():
            rows = kept[done : done + piece.n_rows]
            done += piece.n_rows
            if done > len(kept):
                break
            X = schema.encode(piece, tally)[rows]
            np.fmin(low, np.fmin.reduce(X, axis=0, initial=np.nan), out=low)
            np.fmax(high, np.fmax.reduce(X, axis=0, initial=np.nan), out=high)
            gaps[:] += np.isnan(X).sum(axis=0)
            file.write(X.astype(dtype).data)
        if done != len(kept):
            raise TableError(f"{path}: has changed while it was read")
        y_file.unlink(missing_ok=True)  # and is written last: old and new files are never a pair

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as output folder: {error.strerror}") from error
    replace_file(X_file, write)
    facts = zip(low.tolist(), high.tolist(), (gaps / shape[0]).tolist(), strict=True)
    described = list(inferred.columns)
    for j, column in enumerate(described):
        if column.kind != "ignore":
            least, most, share = next(facts)
            if column.kind != "category":
                column = replace(column, low=least, high=most)
            described[j] = replace(column, gaps=share)
    state = replace(inferred, columns=tuple(described)).state()
    document = json.dumps({**json.loads(state.tobytes()), "classes": found.classes}).encode()
    replace_file(meaning_file, lambda file: file.write(document))
    replace_file(y_file, lambda file: np.save(file, found.y))
    return shape, [*found.notes, *inferred.notes, *tally.messages()]
