"""One file of named arrays and one JSON document, safe against crashes, damage and forgery.

Checkpoints and model files are archives.  `minidl.atomic` puts them on the disk, `minidl.npz`
reads them.  An archive is a plain .npz, which `np.load` opens too: a zip, not compressed, of

    document.json    {"arrays": [names], "document": ..., "kind": ..., "version": ...}
    NAME.npy         one for each name
    sha256           of document.json and every array's name, dtype, shape and bytes

"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from minidl.atomic import replace_file
from minidl.errors import DivergenceError
from minidl.npz import CHUNK, SUFFIX, Arrays, is_plain, opened_zip, read_array

_DOCUMENT, _HASH = "document.json", "sha256"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MAX_ARRAYS = 1000
_MAX_DIGITS = 40  # the state of a generator has 39


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
    """Write an archive so that a crash leaves a good file at `path` or at `previous`.

    Equal contents give equal bytes.

    path      : the file; its folder must exist
    arrays    : name -> array of bools, integers, floats (float16 to float64), str or bytes
    document  : JSON values; tuples come back as lists, at most 1 MiB as text
    kind      : what the file is ("checkpoint", "model"); `read_archive` asks for the same
    version   : of the layout of `arrays` and `document`, 1 or more
    previous  : where the present file at `path` is kept, in the same folder

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

    Takes at most the file's size and 64 MB of memory, whatever the file claims.  The hash finds
    damage; it is not a signature, so the caller must check the contents of the document.
    """
    with opened_zip(Path(path), max_bytes) as (file_size, archive, members):
        if _DOCUMENT not in members:
            raise ValueError("it is not a file of minidl")
        for name, member in members.items():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name!r} is compressed")
        if sum(member.file_size for member in members.values()) > file_size:
            raise ValueError("it claims to hold more than its size")

        text = _read_small(archive, members[_DOCUMENT], CHUNK)
        names, document = _names_and_document(_parsed(text), kind, newest_version)
        if sorted(members) != sorted([_DOCUMENT, _HASH, *(f"{name}{SUFFIX}" for name in names)]):
            raise ValueError(f"its members are not those that {_DOCUMENT} lists")

        arrays = {name: read_array(archive, members[name + SUFFIX]) for name in names}
        for name, array in arrays.items():
            if not array.flags.c_contiguous:
                raise ValueError(f"{name!r} is not in C order")
        if _read_small(archive, members[_HASH], 64) != _digest(text, arrays):
            raise ValueError("it is damaged: its contents do not match its SHA-256")
        return arrays, document


def _require_storable(name: str, array: NDArray[Any]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"arrays: {name!r} must be 1 to 100 of the characters A-Z a-z 0-9 _ . -")
    if not is_plain(array.dtype):
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
    if len(text) > CHUNK:
        raise ValueError(f"document must be at most {CHUNK} bytes as JSON, got {len(text)}")
    return text


def _write_zip(file: BinaryIO, text: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        _write_member(archive, _DOCUMENT, text)
        for name, array in arrays.items():
            header = io.BytesIO()
            facts = {"descr": _stored_dtype(array), "fortran_order": False, "shape": array.shape}
            npy.write_array_header_1_0(header, facts)
            _write_member(archive, name + SUFFIX, header.getvalue(), array)
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
    n_rows = max(1, CHUNK * len(array) // max(1, array.nbytes))
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
