"""Damaged and forged copies of an archive, for the tests and for the long proof.

Most mutants are what a disk or a cable does; the rest are written by someone who knows the zip
and .npy formats and gets every CRC right.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError

SIZES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63, 2**64 - 1)
BOMB = bytes(4 * 2**20)


def flip(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        mutant[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(mutant)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 100))


def delete(data: bytes, rng: random.Random) -> bytes:
    start, stop = _slice(data, rng)
    return data[:start] + data[stop:]


def insert(data: bytes, rng: random.Random) -> bytes:
    start, stop = _slice(data, rng)
    at = rng.randrange(len(data))
    return data[:at] + data[start:stop] + data[at:]


def blank(data: bytes, rng: random.Random) -> bytes:
    start, stop = _slice(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff")) * (stop - start) + data[stop:]


def swap(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice((1, 4, 16, 64, 512))
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    b = max(b, a + size)
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def forge_field(data: bytes, rng: random.Random) -> bytes:
    """A size, offset, count or flag near a zip signature replaced by an awkward number."""
    signature = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    places = [i for i in range(len(data) - 4) if data.startswith(signature, i)]
    at = rng.choice(places) + 4 + rng.randrange(42)
    width, code = rng.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
    field = struct.pack(code, rng.choice(SIZES) % 2 ** (8 * width))
    return data[:at] + field + data[at + width :]


def forge_members(data: bytes, rng: random.Random) -> bytes:
    """Another valid zip: members changed, renamed, swapped, dropped, doubled, added, inflated."""
    members = _members(data)
    i, j = (rng.randrange(len(members)) for _ in range(2))
    (name, old), (other_name, other) = members[i], members[j]
    kind = rng.randrange(9)
    if kind == 0:
        members[i] = (name, flip(old, rng))
    elif kind == 1:
        members[i] = (name, blank(old, rng))
    elif kind == 2:
        members[i], members[j] = (name, other), (other_name, old)
    elif kind == 3:
        members[i] = (flip(name.encode(), rng).decode("latin-1"), old)
    elif kind == 4:
        del members[i]
    elif kind == 5:
        members.append((name, rng.choice((old, other))))
    elif kind == 6:
        members.append((rng.choice(("x.npy", "../x", "document.json ")), other))
    elif kind == 7:
        members[i] = (name, _forged_header(old, rng))
    elif kind == 8 and rng.random() < 0.05:
        members[i] = (name, BOMB)
    return _zip(members, deflate=i if kind == 8 else None)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(flip, flip, truncate, extend, delete, insert, blank, swap),
    *(forge_field, forge_field, forge_members, forge_members),
)


def survey(
    data: bytes, read: Callable[[Path], Any], n: int, *, seed: int, folder: Path
) -> Counter[str]:
    """Read `n` mutants of `data`: how many were refused, and how many read the same as `data`.

    `read` returns something that compares by `==` over all that the file says.  What must not
    be is counted too, as "changed: MUTATION" and "ERROR: MUTATION"; a MemoryError is among them,
    so that a limit on the process's memory makes this a proof that little is taken.
    """
    path = folder / "mutant.npz"
    path.write_bytes(data)
    original = read(path)
    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    for _ in range(n):
        mutate = rng.choice(MUTATIONS)
        path.write_bytes(mutate(data, rng))
        try:
            same = read(path) == original
            counts["identical" if same else f"changed: {mutate.__name__}"] += 1
        except CheckpointError as error:
            memory = isinstance(error.__cause__, MemoryError)
            counts[f"MemoryError: {mutate.__name__}" if memory else "refused"] += 1
        except Exception as error:
            counts[f"{type(error).__name__}: {mutate.__name__}"] += 1
    path.unlink()
    return counts


def _slice(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, start + rng.choice((1, 2, 4, 16, 100, 1000))


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _zip(members: list[tuple[str, bytes]], deflate: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, (name, content) in enumerate(members):
            member = zipfile.ZipInfo(name)
            if i == deflate:
                member.compress_type = zipfile.ZIP_DEFLATED
            if name in archive.NameToInfo:  # zipfile warns of a name that it has
                del archive.NameToInfo[name]
            archive.writestr(member, content)
    return file.getvalue()


def _forged_header(npy: bytes, rng: random.Random) -> bytes:
    shape = rng.choice(
        ("()", "(-1,)", "(2**40,)", "(1099511627776,)", "(0, 9223372036854775807)", "(True, 3)",
         "(-2, -3)", f"({'9' * 3000},)", "[3]", "(" * 900, f"({'1, ' * 70})", "(4.0,)", "(3L,)")
    )  # fmt: skip
    descr = rng.choice(
        ("'<f4'", "'|O'", "'<f8'", "'>f4'", "'<U1000000000'", "'|V8'", "[('a', '<f4')]", "'<M8[s]'",
         "'|S0'", "'<c8'", "('<f4', (2,))", "None", "7", "'\\ud800'", "'<f16'", "'a5'", "'f4,f4'")
    )  # fmt: skip
    text = (
        f"{{'descr': {descr}, 'fortran_order': {rng.choice((True, False, 3))}, 'shape': {shape}}}"
    )
    version = rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = rng.choice((len(text), len(text), len(text), 0, 2**16 - 1, 2**32 - 1))
    if version == (1, 0):
        field = struct.pack("<H", length % 2**16)
    else:
        field = struct.pack("<I", length)
    return b"\x93NUMPY" + bytes(version) + field + text.encode() + npy[128:]
