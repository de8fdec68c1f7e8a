"""Reads the arrays of any .npz file so that no file can crash the reader or exhaust memory.

What a file says about itself is checked before it is used and before memory is allocated.

Sources: PKWARE's APPNOTE 6.3 (zip), NumPy's `numpy.lib.format` (npy).
"""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from minidl.errors import CheckpointError

Arrays = dict[str, NDArray[Any]]

CHUNK = 2**20  # bytes: the most that is read at once
SUFFIX = ".npy"
_MAX_HEADER = 4096  # bytes of one .npy header
_MAX_EMPTY = 2**20  # of each dimension of an empty array
_MAX_ITEM = 2**20  # bytes of one text
_MAX_INFLATION = 1032  # deflate cannot do better, so a larger ratio is false
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(
    path: Path, *, names: tuple[str, ...] | None = None, max_bytes: int = 2**31
) -> Arrays:
    """Return the arrays of any .npz, such as Keras' mnist.npz, or `CheckpointError`.

    names      : those wanted; None for all
    max_bytes  : of the arrays together

    Compressed or not; nothing is unpickled, and sizes are checked before memory is taken.
    """
    with opened_zip(Path(path), max_bytes) as (file_size, archive, members):
        found = {
            name.removesuffix(SUFFIX): member
            for name, member in members.items()
            if name.endswith(SUFFIX)
        }
        for name in names or ():
            if name not in found:
                raise ValueError(f"it has no array {name!r}; it holds {', '.join(found)}")
        chosen = {name: found[name] for name in names or found}
        for name, member in chosen.items():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed by a method that .npz does not use")
            if member.file_size > _MAX_INFLATION * member.compress_size:
                raise ValueError(f"{name!r} claims to be larger than its bytes can be")
        if sum(member.compress_size for member in chosen.values()) > file_size:
            raise ValueError("it claims to hold more than its size")
        if (total := sum(member.file_size for member in chosen.values())) > max_bytes:
            raise ValueError(f"its arrays take {total} bytes, more than the {max_bytes} allowed")
        return {name: read_array(archive, member) for name, member in chosen.items()}


class _CappedReader(io.BufferedReader):
    """A file that hands out at most `CHUNK` bytes a read.

    `zipfile` reads the whole directory at the size a file claims, and builds an object an entry;
    so the directory ends here after 1 MiB, more than the members an archive may have can fill.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(CHUNK if size is None or size < 0 else min(size, CHUNK))


@contextmanager
def opened_zip(
    path: Path, max_bytes: int
) -> Iterator[tuple[int, zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Yield (file size, open zip, its members by name).

    Whatever goes wrong in the block is the file's fault, and raises CheckpointError.

    Bad bytes bring some ten kinds of exception out of zipfile, zlib, json and NumPy, and which
    ones changes with their versions: hence the broad `except`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never open
            raise ValueError("it is not a regular file")
        with _CappedReader(io.FileIO(path)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise ValueError(f"it has {size} bytes, more than the {max_bytes} allowed")
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: member for member in archive.infolist()}
                if len(members) != len(archive.infolist()):
                    raise ValueError("two members have the same name")
                yield size, archive, members
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        line = (reason or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(f"cannot read {path}: {line}") from error


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One .npy, straight into its array once its header and the declared size agree.

    Only `_MAX_HEADER` bytes go to NumPy's parser: it would read a header of any claimed length.
    """
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(_MAX_HEADER))
        read_header = _HEADERS.get(npy.read_magic(start))
        if read_header is None:
            raise ValueError(f"{member.filename!r} has an .npy version that is not known")
        shape, fortran_order, dtype = read_header(start, max_header_size=_MAX_HEADER)
        if not is_plain(dtype):
            raise ValueError(f"{member.filename!r} has dtype {dtype}, which is not allowed")
        n_bytes = member.file_size - start.tell()
        if 0 in shape and max(shape) > _MAX_EMPTY:
            raise ValueError(f"{member.filename!r} is empty and claims the shape {shape}")
        if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != n_bytes:
            raise ValueError(
                f"{member.filename!r} has {n_bytes} bytes, which shape {shape} and dtype {dtype} "
                "do not give"
            )
        raw = np.empty(n_bytes, np.uint8)
        filled = 0
        chunk = start.read()
        while chunk:
            raw[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
            chunk = stream.read(CHUNK)
    if filled != n_bytes:
        raise ValueError(f"{member.filename!r} ends after {filled} of {n_bytes} bytes")
    array = raw.view(dtype).reshape(shape, order="F" if fortran_order else "C")
    _check_values(array, member.filename)
    return array


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether values are plain bytes of one size on every machine: no objects, fields or dates."""
    if dtype.kind == "f":
        return dtype.itemsize <= 8
    return dtype.kind in "biuSU" and 0 < dtype.itemsize <= _MAX_ITEM


def _check_values(array: NDArray[Any], name: str) -> None:
    """Refuse bit patterns that no bool or character has, on which NumPy stumbles much later."""
    if array.size and array.dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise ValueError(f"{name!r} holds bools that are neither 0 nor 1")
    if array.size and array.dtype.kind == "U":
        points = array.reshape(-1).view(array.dtype.str[0] + "u4")
        if points.max() > 0x10FFFF:
            raise ValueError(f"{name!r} holds text that is not Unicode")
