"""One file of named arrays and one JSON document, safe against crashes, damage and forgery.

Checkpoints and model files are archives.  `minidl.atomic` puts them on the disk; reading
believes nothing that a file says about itself until it is checked, and takes no memory before.
An archive is a plain .npz, which `np.load` opens too: a zip, not compressed, of

    document.json    {"arrays": [names], "document": ..., "kind": ..., "version": ...}
    NAME.npy         one for each name
    sha256           of document.json and every array's name, dtype, shape and bytes

Sources: PKWARE's APPNOTE 6.3 (zip), NumPy's `numpy.lib.format` (npy).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from minidl.atomic import remove_leftovers, replace_file
from minidl.errors import CheckpointError, DivergenceError

__all__ = ["document_text", "read_archive", "read_arrays", "remove_leftovers", "write_archive"]

Arrays = dict[str, NDArray[Any]]

_DOCUMENT, _HASH, _SUFFIX = "document.json", "sha256", ".npy"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CHUNK = 2**20  # bytes: the most that is read at once, and the longest document
_MAX_ARRAYS = 1000
_MAX_HEADER = 4096  # bytes of one .npy header
_MAX_EMPTY = 2**20  # of each length of an array that holds nothing
_MAX_ITEM = 2**20  # bytes of one text
_MAX_DIGITS = 40  # the state of a generator has 39
_MAX_INFLATION = 1032  # deflate cannot do better, so a larger ratio is a lie
_NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def write_archive(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    document: Mapping[str, Any],
    *,
    kind: str,
    version: int,
    previous: Path | None = None,
    may_hold_nan: tuple[str, ...] = (),
) -> None:
    """Write an archive so that, whatever happens, a good file stands at `path` or `previous`.

    Equal contents give equal bytes.

    path      : the file; its folder must exist
    arrays    : name -> array of bools, integers, floats (float16 to float64), str or bytes
    document  : JSON values; tuples come back as lists, at most 1 MiB as text
    kind      : what the file is ("checkpoint", "model"); `read_archive` asks for the same
    version   : of the layout of `arrays` and `document`, 1 or more
    previous  : where the file that now stands at `path` is kept, in the same folder

    Raises `DivergenceError` for an array that is not finite, `CheckpointError` for what the disk
    refuses, `ValueError` for what an archive cannot hold; the old files are intact after each.
    """
    for name, array in arrays.items():
        if not name.startswith(may_hold_nan or ("/",)) and not _is_finite(array):
            raise DivergenceError(
                f"{path} is not written: the array {name!r} holds values that are not finite"
            )
    for name, array in arrays.items():
        _require_storable(name, array)
    text = document_text(list(arrays), document, kind, version)
    replace_file(path, lambda file: _write_zip(file, text, arrays), previous=previous)


def read_archive(
    path: Path, *, kind: str, newest_version: int, max_bytes: int = 2**34
) -> tuple[Arrays, dict[str, Any]]:
    """Return (arrays, document) of the file that `write_archive` wrote, or `CheckpointError`.

    kind            : what the file has to be
    newest_version  : the newest layout the caller understands
    max_bytes       : of the file

    Takes no more memory than the file's size and 64 MB, whatever the file claims.  The hash
    finds damage; it is no signature, so the caller still judges what the document says.
    """
    with _opened_zip(Path(path), max_bytes) as (file_size, archive):
        members = _members(archive)
        if _DOCUMENT not in members:
            raise ValueError("it is not a file of minidl")
        for name, member in members.items():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name!r} is compressed")
        if sum(member.file_size for member in members.values()) > file_size:
            raise ValueError("it claims to hold more than its size")

        text = _read_small(archive, members[_DOCUMENT], _CHUNK)
        names, document = _names_and_document(_parsed(text), kind, newest_version)
        if sorted(members) != sorted([_DOCUMENT, _HASH, *(f"{name}{_SUFFIX}" for name in names)]):
            raise ValueError(f"its members are not those that {_DOCUMENT} lists")

        arrays = {name: _read_array(archive, members[name + _SUFFIX]) for name in names}
        for name, array in arrays.items():
            if not array.flags.c_contiguous:
                raise ValueError(f"{name!r} is not in C order")
        if _read_small(archive, members[_HASH], 64) != _digest(text, arrays):
            raise ValueError("it is damaged: its contents do not match its SHA-256")
        return arrays, document


def read_arrays(
    path: Path, *, names: tuple[str, ...] | None = None, max_bytes: int = 2**31
) -> Arrays:
    """Return the arrays of any .npz, such as Keras' mnist.npz, or `CheckpointError`.

    names      : those wanted; None for all
    max_bytes  : of the arrays together

    Compressed or not; nothing is unpickled, and sizes are checked before memory is taken.
    """
    with _opened_zip(Path(path), max_bytes) as (file_size, archive):
        members = {
            name.removesuffix(_SUFFIX): member
            for name, member in _members(archive).items()
            if name.endswith(_SUFFIX)
        }
        for name in names or ():
            if name not in members:
                raise ValueError(f"it has no array {name!r}; it holds {', '.join(members)}")
        chosen = {name: members[name] for name in names or members}
        for name, member in chosen.items():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed by a method that .npz does not use")
            if member.file_size > _MAX_INFLATION * member.compress_size:
                raise ValueError(f"{name!r} claims to be larger than its bytes can be")
        if sum(member.compress_size for member in chosen.values()) > file_size:
            raise ValueError("it claims to hold more than its size")
        if (total := sum(member.file_size for member in chosen.values())) > max_bytes:
            raise ValueError(f"its arrays take {total} bytes, more than the {max_bytes} allowed")
        return {name: _read_array(archive, member) for name, member in chosen.items()}


# ---- writing


def _require_storable(name: str, array: NDArray[Any]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"arrays: {name!r} must be 1 to 100 of the characters A-Z a-z 0-9 _ . -")
    if not _is_plain(array.dtype):
        raise ValueError(f"arrays: {name!r} has dtype {array.dtype}, which cannot be stored")


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether every value is finite: the extremes are, and they need no temporary array."""
    if array.dtype.kind != "f" or not array.size:
        return True
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def document_text(
    names: Sequence[str], document: Mapping[str, Any], kind: str, version: int
) -> bytes:
    """Return the JSON text of an archive.  Raises ValueError for what JSON cannot hold."""
    if len(names) > _MAX_ARRAYS:
        raise ValueError(f"arrays must be at most {_MAX_ARRAYS}, got {len(names)}")
    if version < 1:
        raise ValueError(f"version must be 1 or more, got {version}")
    manifest = {"arrays": list(names), "document": dict(document), "kind": kind, "version": version}
    try:
        text = json.dumps(
            manifest, allow_nan=False, ensure_ascii=False, indent=1, sort_keys=True
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"document cannot be stored as JSON: {error}") from error
    if len(text) > _CHUNK:
        raise ValueError(f"document must be at most {_CHUNK} bytes as JSON, got {len(text)}")
    return text


def _write_zip(file: BinaryIO, text: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        _write_member(archive, _DOCUMENT, text)
        for name, array in arrays.items():
            header = io.BytesIO()
            facts = {"descr": _stored_dtype(array), "fortran_order": False, "shape": array.shape}
            npy.write_array_header_1_0(header, facts)
            _write_member(archive, name + _SUFFIX, header.getvalue(), array)
        _write_member(archive, _HASH, _digest(text, arrays))


def _write_member(
    archive: zipfile.ZipFile, name: str, start: bytes, array: NDArray[Any] | None = None
) -> None:
    member = zipfile.ZipInfo(name)  # dated 1980, so that equal contents give equal bytes
    member.create_system = 3
    member.external_attr = 0o644 << 16
    member.file_size = len(start) + (0 if array is None else array.nbytes)
    with archive.open(member, "w") as stream:
        stream.write(start)
        for part in () if array is None else _bytes_of(array):
            stream.write(part)


def _stored_dtype(array: NDArray[Any]) -> str:
    return array.dtype.newbyteorder("<").str


def _bytes_of(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of an array in C order, little-endian; of another layout a few rows are copied."""
    array = np.atleast_1d(array)
    n_rows = max(1, _CHUNK * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), n_rows):
        rows = np.ascontiguousarray(array[start : start + n_rows], _stored_dtype(array))
        yield rows.reshape(-1).view(np.uint8).data


def _digest(text: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 in hexadecimal; JSON delimits itself, so no two contents give the same stream."""
    digest = hashlib.sha256(text)
    for name, array in arrays.items():
        digest.update(json.dumps([name, _stored_dtype(array), array.shape]).encode())
        for part in _bytes_of(array):
            digest.update(part)
    return digest.hexdigest().encode()


# ---- reading


class _CappedReader(io.BufferedReader):
    """A file that hands out at most `_CHUNK` bytes a read.

    `zipfile` reads the whole directory at the size a file claims, and builds an object an entry;
    so the directory ends here after 1 MiB, more than the members an archive may have can fill.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_CHUNK if size is None or size < 0 else min(size, _CHUNK))


@contextmanager
def _opened_zip(path: Path, max_bytes: int) -> Iterator[tuple[int, zipfile.ZipFile]]:
    """Yield (file size, open zip); whatever goes wrong in the block is the file's fault.

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
                yield size, archive
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        line = (reason or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(f"cannot read {path}: {line}") from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise ValueError("two members have the same name")
    return members


def _names_and_document(
    manifest: Any, kind: str, newest_version: int
) -> tuple[list[str], dict[str, Any]]:
    match manifest:
        case {
            "kind": str(found),
            "version": int(version),
            "arrays": list(names),
            "document": dict(document),
        } if version >= 1 and all(isinstance(name, str) for name in names):
            pass
        case _:
            raise ValueError(f"{_DOCUMENT} is malformed")
    if found != kind:
        raise ValueError(f"it is a {found!r}, not a {kind!r}")
    if version > newest_version:
        raise ValueError(
            f"a newer minidl wrote it (format {version}; this one reads up to {newest_version}): "
            "update minidl"
        )
    return names, document


def _parsed(text: bytes) -> Any:
    """JSON as the standard has it: finite numbers of a bounded length, and Unicode texts."""
    tree = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_float)
    json.dumps(tree, ensure_ascii=False).encode()  # a lone surrogate is no text
    return tree


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{_DOCUMENT} holds a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{_DOCUMENT} holds {text[:20]}, which is not a finite number")
    return value


def _read_small(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """A member, or so much of it that it cannot be right."""
    with archive.open(member) as stream:
        return stream.read(limit + 1)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One .npy, straight into its array once its header and the declared size agree.

    Only `_MAX_HEADER` bytes go to NumPy's parser: it would read a header of any claimed length.
    """
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(_MAX_HEADER))
        read_header = _NPY_HEADERS.get(npy.read_magic(start))
        if read_header is None:
            raise ValueError(f"{member.filename!r} has an .npy version that is not known")
        shape, fortran_order, dtype = read_header(start, max_header_size=_MAX_HEADER)
        if not _is_plain(dtype):
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
            chunk = stream.read(_CHUNK)
    if filled != n_bytes:
        raise ValueError(f"{member.filename!r} ends after {filled} of {n_bytes} bytes")
    array = raw.view(dtype).reshape(shape, order="F" if fortran_order else "C")
    _check_values(array, member.filename)
    return array


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether values are just bytes: no objects, fields, dates, or sizes that hang on the CPU."""
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
