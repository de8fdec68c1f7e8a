"""Parquet and Arrow files as data frames, read by polars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from minidl.data.textfiles import open_data
from minidl.errors import DataError

PARQUET = (".parquet", ".pq")
FRAMES = (*PARQUET, ".arrow", ".feather", ".ipc")
CELLS = 1 << 17  # of the frames that `frames_of` yields
AT_ONCE = 16  # of them are read together


def read_frame(path: str | os.PathLike[str]) -> Any:
    """Return the frame of a Parquet or Arrow (Feather) file; None for files of other kinds."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FRAMES:
        return None
    polars = _polars(path)
    with open_data(path) as file:
        read = polars.read_parquet if suffix in PARQUET else polars.read_ipc
        return _read(path, lambda: read(file))


def frames_of(path: str) -> Iterator[Any]:
    """Yield the frames of some CELLS cells each of a Parquet file; of an Arrow file, one frame."""
    if not path.lower().endswith(PARQUET):
        yield read_frame(path)
        return
    polars = _polars(path)
    with open_data(path):
        scan = polars.scan_parquet(path, glob=False)
    n_rows = _read(path, lambda: scan.select(polars.len()).collect().item())
    if n_rows == 0:
        raise DataError(f"{path}: holds no row")
    rows = max(1, CELLS // max(1, len(_read(path, scan.collect_schema))))
    for start in range(0, n_rows, AT_ONCE * rows):
        frame = _read(path, scan.slice(start, AT_ONCE * rows).collect)
        yield from frame.iter_slices(rows)


def _polars(path: str | os.PathLike[str]) -> Any:
    try:
        import polars
    except ImportError:
        suffix = os.path.splitext(path)[1].lower()
        raise DataError(
            f'{path}: {suffix} files are read with polars: pip install "minidl[tables]"'
        ) from None
    return polars


def _read(path: str | os.PathLike[str], read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # of polars' own kinds
        kind = os.path.splitext(path)[1].lower()[1:]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: is not a {kind} file: {reason}") from error
