"""Named arrays and one JSON document in a file, safe against crashes, damage and forgery.

Checkpoints and model files are archives: plain .npz files, which `np.load` opens too.  An archive
is a zip, not compressed, of

    document.json    {"arrays": [names], "document": ..., "kind": ..., "version": ...}
    NAME.npy         one for each name, in C order, little-endian
    sha256           of document.json and every array's name, dtype, shape and bytes

`minidl.atomic` puts them on the disk.  `read_arrays` reads any other .npz as carefully: what a
file says about itself is checked before it is used and before memory is allocated.
Sources: PKWARE's APPNOTE 6.3 (zip), NumPy's `numpy.lib.format` (npy).
"""

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

from minidl.atomic import replace_file
from minidl.errors import CheckpointError, DivergenceError

Arrays = dict[str, NDArray[Any]]

CHUNK = 2**20  # bytes: the most that is read at once, and of a document
_SUFFIX, _DOCUMENT, _HASH = ".npy", "document.json", "sha256"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MAX_ARRAYS = 1000
_MAX_BYTES = 2**34  # of an archive
_MAX_HEADER = 4096  # bytes of one .npy header
_MAX_EMPTY = 2**20  # of each dimension of an empty array
_MAX_ITEM = 2**20  # bytes of one text
# How much larger a member can be than its bytes; the second by deflate's design.
_INFLATION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
    stored = {}
    for name, array in arrays.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"arrays: {name!r} must be 1 to 100 of the characters A-Z a-z 0-9 _ . -"
            )
        if not _is_plain(array.dtype):
            raise ValueError(f"arrays: {name!r} has dtype {array.dtype}, which cannot be stored")
        # The extremes are finite where all values are, and need no temporary array.
        extremes = (array.min(), array.max()) if array.dtype.kind == "f" and array.size else ()
        if not np.isfinite(extremes).all() and not name.startswith(may_hold_nan or ("/",)):
            raise DivergenceError(
                f"{path} is not written: the array {name!r} holds values that are not finite"
            )
        stored[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    text = document_text(list(arrays), document, kind, version)

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _write_member(archive, _DOCUMENT, text)
            for name, array in stored.items():
                header = io.BytesIO()
                npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
                _write_member(archive, name + _SUFFIX, header.getvalue(), array)
            _write_member(archive, _HASH, _digest(text, stored))

    replace_file(path, write, previous=previous)


def read_archive(path: Path, *, kind: str, newest_version: int) -> tuple[Arrays, dict[str, Any]]:
    """Return (arrays, document) of the file that `write_archive` wrote, or `CheckpointError`.

    kind            : what the file has to be
    newest_version  : the newest layout the caller understands

    Takes at most the file's size and 64 MB of memory, whatever the file claims.  The hash finds
    damage; it is not a signature, so the caller must check the contents of the document.
    """
    with _opened(path, _MAX_BYTES) as (archive, members):
        if _DOCUMENT not in members:
            raise ValueError("it is not a file of minidl")
        for name, member in members.items():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name!r} is compressed")
        text = _read_small(archive, _DOCUMENT, CHUNK)
        names, document = _names_and_document(_parsed(text), kind, newest_version)
        if sorted(members) != sorted([_DOCUMENT, _HASH, *(name + _SUFFIX for name in names)]):
            raise ValueError(f"its members are not those that {_DOCUMENT} lists")
        arrays = {name: _read_array(archive, members[name + _SUFFIX]) for name in names}
        for name, array in arrays.items():
            if not array.flags.c_contiguous or array.dtype != array.dtype.newbyteorder("<"):
                raise ValueError(f"{name!r} is not in C order, little-endian")
        if _read_small(archive, _HASH, 64) != _digest(text, arrays):
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
    with _opened(path, max_bytes) as (archive, members):
        found = {
            name.removesuffix(_SUFFIX): member
            for name, member in members.items()
            if name.endswith(_SUFFIX)
        }
        for name in names or ():
            if name not in found:
                raise ValueError(f"it has no array {name!r}; it holds {', '.join(found)}")
        chosen = {name: found[name] for name in names or found}
        if (total := sum(member.file_size for member in chosen.values())) > max_bytes:
            raise ValueError(f"its arrays take {total} bytes, more than the {max_bytes} allowed")
        return {name: _read_array(archive, member) for name, member in chosen.items()}


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


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether values are plain bytes of one size on every machine: no objects, fields or dates."""
    if dtype.kind == "f":
        return dtype.itemsize <= 8
    return dtype.kind in "biuSU" and 0 < dtype.itemsize <= _MAX_ITEM


def _write_member(
    archive: zipfile.ZipFile, name: str, start: bytes, array: NDArray[Any] | None = None
) -> None:
    member = zipfile.ZipInfo(name)  # dated 1980, so that equal contents give equal bytes
    member.create_system = 3
    member.external_attr = 0o644 << 16
    member.file_size = len(start) + (0 if array is None else array.nbytes)
    with archive.open(member, "w") as stream:
        stream.write(start)
        if array is not None:
            stream.write(array.data)


def _digest(text: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 in hexadecimal; JSON delimits itself, so no two contents give the same stream."""
    digest = hashlib.sha256(text)
    for name, array in arrays.items():
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.data)
    return digest.hexdigest().encode()


class _CappedReader(io.BufferedReader):
    """A file that hands out at most `CHUNK` bytes a read.

    `zipfile` reads the whole directory at the size a file claims, and builds an object an entry;
    so the directory ends here after 1 MiB, more than the members an archive may have can fill.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(CHUNK if size is None or size < 0 else min(size, CHUNK))


@contextmanager
def _opened(
    path: Path, max_bytes: int
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Yield a zip and its members by name, none of which claims to be larger than it can be.

    Whatever goes wrong in the block is the file's fault, and raises CheckpointError. Bad bytes
    bring some ten kinds of exception out of zipfile, zlib, json and NumPy, and which ones changes
    with their versions: hence the broad `except`.
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
                for name, member in members.items():
                    if (factor := _INFLATION.get(member.compress_type)) is None:
                        raise ValueError(f"{name!r} is compressed by a method .npz does not use")
                    if member.file_size > factor * member.compress_size:
                        raise ValueError(f"{name!r} claims to be larger than its bytes can be")
                if sum(member.compress_size for member in members.values()) > size:
                    raise ValueError("it claims to hold more than its size")
                yield archive, members
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        line = (reason or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(f"cannot read {path}: {line}") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Let NumPy read one .npy, once its header and the declared size agree.

    Only `_MAX_HEADER` bytes are parsed: NumPy would read a header of any claimed length.
    """
    name = member.filename
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(_MAX_HEADER))
    read_header = _HEADERS.get(npy.read_magic(start))
    if read_header is None:
        raise ValueError(f"{name!r} has an .npy version that is not known")
    shape, _, dtype = read_header(start, max_header_size=_MAX_HEADER)
    n_bytes = member.file_size - start.tell()
    if not _is_plain(dtype):
        raise ValueError(f"{name!r} has dtype {dtype}, which is not allowed")
    if 0 in shape and max(shape) > _MAX_EMPTY:
        raise ValueError(f"{name!r} is empty and claims the shape {shape}")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != n_bytes:
        raise ValueError(
            f"{name!r} has {n_bytes} bytes, which shape {shape} and dtype {dtype} do not give"
        )
    with archive.open(member) as stream:
        array: NDArray[Any] = npy.read_array(
            stream, allow_pickle=False, max_header_size=_MAX_HEADER
        )
    # Bit patterns that no bool or character has, on which NumPy stumbles much later.
    if array.size and dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise ValueError(f"{name!r} holds bools that are neither 0 nor 1")
    if array.size and dtype.kind == "U":
        if array.ravel(order="K").view(dtype.str[0] + "u4").max() > 0x10FFFF:
            raise ValueError(f"{name!r} holds text that is not Unicode")
    return array


def _read_small(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member, or so much of it that it cannot be right."""
    with archive.open(name) as stream:
        return stream.read(limit + 1)


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
    """JSON as the standard has it: no NaN or infinity, and no half of a surrogate pair."""
    tree = json.loads(text)
    json.dumps(tree, allow_nan=False, ensure_ascii=False).encode()
    return tree
