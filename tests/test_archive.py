"""Archives survive crashes, full disks, damage and forgery."""

import errno
import hashlib
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest
from test_atomic import Faults

from minidl.archive import read_archive, read_arrays, write_archive
from minidl.atomic import remove_leftovers
from minidl.errors import CheckpointError, DivergenceError

GOLDEN = Path(__file__).parent / "golden" / "archive-v1.npz"
ARRAYS = {
    "params": np.linspace(-1.0, 1.0, 12, dtype=np.float32),
    "layer-0.W": np.arange(12.0).reshape(3, 4),
    "classes": np.array(["null", "eins", "zwei ü"]),
    "raw": np.array([b"ab", b"c"]),
    "mask": np.array([[True], [False]]),
    "empty": np.zeros((0, 5), np.float16),
    "step": np.array(7, np.uint64),
}
DOCUMENT = {"epoch": 3, "rng": {"key": [2**64 - 1, 0]}, "best": 0.1, "name": "ü", "none": None}


def write(path, arrays=ARRAYS, document=DOCUMENT, *, kind="checkpoint", version=1, previous=None):
    write_archive(path, arrays, document, kind=kind, version=version, previous=previous)


def read(path, **options):
    return read_archive(path, **{"kind": "checkpoint", "newest_version": 1} | options)


def contents(path):
    """All that an archive says, as something that compares by ==."""
    arrays, document = read(path)
    return {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()}, document


def rezip(path, change):
    """Rewrite the zip at `path` after `change(members)` on its {name: bytes}; CRCs are right."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def reseal(members):
    """Give an archive without arrays the SHA-256 of its forged document."""
    members["sha256"] = hashlib.sha256(members["document.json"]).hexdigest().encode()


def npy(descr, shape, data=b"", fortran_order=False):
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran_order}, 'shape': {shape!r}}}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def foreign(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


# ---- what goes in comes out


def test_round_trip(tmp_path):
    write(tmp_path / "a.npz")
    arrays, document = read(tmp_path / "a.npz")
    assert document == DOCUMENT
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].flags.writeable
    assert os.listdir(tmp_path) == ["a.npz"]
    assert (tmp_path / "a.npz").stat().st_mode & 0o444 == 0o444 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_any_layout_in_memory_is_stored_in_one_order(tmp_path):
    W = np.arange(24.0).reshape(4, 6)
    strange = {"fortran": np.asfortranarray(W), "big": W.astype(">f8"), "strided": W[::2, ::-1]}
    write(tmp_path / "a.npz", strange)
    arrays, _ = read(tmp_path / "a.npz")
    for name, array in strange.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype.str == "<f8" and arrays[name].flags.c_contiguous


def test_equal_contents_give_equal_bytes(tmp_path, monkeypatch):
    write(tmp_path / "a.npz")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write(tmp_path / "b.npz", document=dict(reversed(DOCUMENT.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_opens_an_archive(tmp_path):
    write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["params"], ARRAYS["params"])
    assert sorted(read_arrays(tmp_path / "a.npz")) == sorted(ARRAYS)


def test_golden_file_of_version_1_loads_for_ever():
    arrays, document = read(GOLDEN, kind="golden", newest_version=9)
    assert document == {"epoch": 3, "best": 0.1, "name": "ü", "none": None}
    np.testing.assert_array_equal(arrays["W"], np.arange(6, dtype=np.float32).reshape(2, 3) / 2)
    np.testing.assert_array_equal(arrays["classes"], ["no", "yes"])
    np.testing.assert_array_equal(arrays["step"], np.uint64(7))


# ---- what an archive refuses to hold


@pytest.mark.parametrize(
    "bad",
    [
        np.array([object()]),
        np.zeros(2, complex),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, np.longdouble),
        np.zeros(2, "V3"),
    ],
)
def test_only_plain_dtypes(tmp_path, bad):
    with pytest.raises(ValueError, match=r"^arrays: 'bad' has dtype"):
        write(tmp_path / "a.npz", {"bad": bad})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_never_reach_a_file(tmp_path, value, dtype):
    write(tmp_path / "a.npz")
    velocity = np.ones((3, 5), dtype)
    velocity[1, 2] = value
    with pytest.raises(DivergenceError, match=r"a\.npz is not written: the array 'velocity'"):
        write(tmp_path / "a.npz", {"velocity": velocity})
    assert contents(tmp_path / "a.npz")[1] == DOCUMENT


@pytest.mark.parametrize("document", [{"x": np.nan}, {"x": {1, 2}}, {"x": "a" * 2**20}])
def test_documents_are_strict_and_small_json(tmp_path, document):
    with pytest.raises(ValueError, match=r"^document "):
        write(tmp_path / "a.npz", document=document)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"^arrays: 'a/b' must be"):
        write(tmp_path / "a.npz", {"a/b": np.zeros(1)})
    with pytest.raises(ValueError, match=r"^arrays must be at most 1000, got 1001"):
        write(tmp_path / "a.npz", {f"a{i}": np.zeros(1) for i in range(1001)})
    with pytest.raises(ValueError, match=r"^version must be 1 or more"):
        write(tmp_path / "a.npz", version=0)


def test_the_largest_archive_allowed_is_readable(tmp_path):
    arrays = {f"{i:0100d}": np.zeros(0) for i in range(1000)}
    write(tmp_path / "a.npz", arrays)
    assert list(read(tmp_path / "a.npz")[0]) == list(arrays)


# ---- a crash at any moment


def rewritten(folder, at=None, code=errno.EIO, forever=False):
    """Write a third generation over two with a fault at call `at`; return the calls made."""
    last, previous = folder / "last.npz", folder / "previous.npz"
    for file in folder.iterdir():
        file.unlink()
    write(last, document={"n": 1})
    write(last, document={"n": 2}, previous=previous)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, at, code, forever)
        try:
            write(last, document={"n": 3}, previous=previous)
        except CheckpointError as error:
            assert str(error).startswith(f"cannot write {last}: {os.strerror(code)}; ")
    assert read(last)[1]["n"] in (2, 3) and read(previous)[1]["n"] in (1, 2)
    return faults.calls


@pytest.mark.parametrize(
    ("code", "forever"),
    [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EINTR, False)],
)
def test_a_fault_at_any_call_leaves_archives_that_load(tmp_path, code, forever):
    calls = rewritten(tmp_path)
    assert calls.count("write") > 10
    for at in range(len(calls)):
        rewritten(tmp_path, at, code, forever)
        assert remove_leftovers(tmp_path) == 0 or forever
        assert sorted(os.listdir(tmp_path)) == ["last.npz", "previous.npz"]


# ---- files from strangers


def test_every_single_bit_is_guarded(tmp_path):
    """Each byte of an archive, flipped: refused, or it says the same."""
    arrays = {"W": np.arange(4, dtype=np.float32), "classes": np.array(["a", "b"])}
    write(tmp_path / "a.npz", arrays, {"n": 1})
    original, data = contents(tmp_path / "a.npz"), (tmp_path / "a.npz").read_bytes()
    refused = 0
    for i in range(len(data)):
        mutant = bytearray(data)
        mutant[i] ^= 1 << i % 8
        (tmp_path / "m.npz").write_bytes(mutant)
        try:
            assert contents(tmp_path / "m.npz") == original, i
        except CheckpointError:
            refused += 1
    assert refused > 0.7 * len(data)


def test_2000_mutants(tmp_path):
    write(tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    counts = mutations.survey(data, contents, 2000, seed=0, folder=tmp_path)
    assert counts.keys() == {"refused", "identical"} and counts["refused"] > 1500, counts


def test_2000_mutants_of_a_foreign_file(tmp_path):
    """No hash guards it, so its values may change; whatever else happens, it is refused."""
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(60), y=np.zeros((3, 4), np.float32))

    def names(path):
        return all(isinstance(array, np.ndarray) for array in read_arrays(path).values())

    counts = mutations.survey(
        (tmp_path / "a.npz").read_bytes(), names, 2000, seed=0, folder=tmp_path
    )
    assert counts.keys() == {"refused", "identical"} and counts["refused"] > 1000, counts


def refusal(path, reader=read, **options):
    """The reason for which a file is refused, and the peak of memory while it was looked at."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as info:
            reader(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size + 40e6
    message = str(info.value)
    assert message.startswith(f"cannot read {path}: ") and "\n" not in message
    return message.removeprefix(f"cannot read {path}: ")


def test_reasons(tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    assert refusal(path, kind="model") == "it is a 'checkpoint', not a 'model'"
    assert refusal(path, read_arrays, max_bytes=100).endswith("more than the 100 allowed")
    write(path, version=3)
    assert refusal(path, newest_version=2) == (
        "a newer minidl wrote it (format 3; this one reads up to 2): update minidl"
    )
    path.write_bytes(b"")
    assert refusal(path) == "File is not a zip file"
    np.savez(path, x=np.zeros(3))
    assert refusal(path) == "it is not a file of minidl"
    assert refusal(tmp_path) == "it is not a regular file"


def test_a_missing_file_and_a_pipe(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*no\.npz: No such file or directory"):
        read(tmp_path / "no.npz")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "it is not a regular file"


@pytest.mark.parametrize("name", ["extra.npy", "README", "params.npy/", "../params.npy"])
def test_extra_members(tmp_path, name):
    write(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", lambda members: members.update({name: members["params.npy"]}))
    assert refusal(tmp_path / "a.npz") == "its members are not those that document.json lists"


def test_contents_changed_with_the_right_crc(tmp_path):
    def change(members):
        members["params.npy"] = members["params.npy"][:-1] + b"\x3e"

    write(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", change)
    assert refusal(tmp_path / "a.npz") == "it is damaged: its contents do not match its SHA-256"


def test_two_arrays_of_one_shape_exchanged(tmp_path):
    def change(members):
        members["a.npy"], members["b.npy"] = members["b.npy"], members["a.npy"]

    write(tmp_path / "a.npz", {"a": np.zeros(3), "b": np.ones(3)})
    rezip(tmp_path / "a.npz", change)
    assert "SHA-256" in refusal(tmp_path / "a.npz")


def test_two_members_of_one_name(tmp_path):
    write(tmp_path / "a.npz", {"aa": np.zeros(3), "ab": np.ones(3)})
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data.replace(b"ab.npy", b"aa.npy"))
    assert refusal(tmp_path / "a.npz") == "two members have the same name"


def test_compressed_members_are_no_archive(tmp_path):
    write(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    assert refusal(tmp_path / "a.npz") == "'document.json' is compressed"


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b'{"kind": "checkpoint", "version": 1}',
        b'{"kind": "checkpoint", "version": "1", "arrays": [], "document": {}}',
        b'{"kind": "checkpoint", "version": 0, "arrays": [], "document": {}}',
        b'{"kind": "checkpoint", "version": 1, "arrays": [], "document": []}',
        b'{"kind": "checkpoint", "version": 1, "arrays": [7], "document": {}}',
        b'{"kind": "checkpoint", "version": 1, "arrays": {}, "document": {}}',
        b'{"kind": 7, "version": 1, "arrays": [], "document": {}}',
        b"[" + b"[]," * 300_000 + b"[]]",
    ],
)
def test_malformed_documents(tmp_path, text):
    write(tmp_path / "a.npz", {})
    rezip(tmp_path / "a.npz", lambda m: (m.update({"document.json": text}), reseal(m)))
    assert refusal(tmp_path / "a.npz") == "document.json is malformed"


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"9" * 100_000, b"[" + b"[]," * 2_000_000 + b"[]]", b"\xff\xfe", b""]
)
def test_documents_that_are_no_json_or_too_long(tmp_path, text):
    write(tmp_path / "a.npz", {})
    rezip(tmp_path / "a.npz", lambda m: (m.update({"document.json": text}), reseal(m)))
    refusal(tmp_path / "a.npz")


def test_a_missing_hash_and_one_that_is_too_long(tmp_path):
    write(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", lambda members: members.update(sha256=members["sha256"] + b"0"))
    assert "do not match its SHA-256" in refusal(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", lambda members: members.pop("sha256"))
    assert "its members are not those" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (npy("<f4", (2**40,)), "has 0 bytes, which shape (1099511627776,)"),
        (npy("<f4", (10**12, 0)), "is empty and claims the shape (1000000000000, 0)"),
        (npy("<f4", (-2, -3), bytes(24)), "which shape (-2, -3)"),
        (npy("<f4", (3,), bytes(11)), "has 11 bytes"),
        (npy("<f4", (3,), bytes(13)), "has 13 bytes"),
        (npy("|O", (1,), bytes(8)), "has dtype object, which is not allowed"),
        (npy("<c8", (1,), bytes(8)), "which is not allowed"),
        (npy("|V8", (1,), bytes(8)), "which is not allowed"),
        (npy("|S0", (3,)), "which is not allowed"),
        (npy("|b1", (2,), b"\1\2"), "holds bools that are neither 0 nor 1"),
        (npy("<U1", (2,), b"a\0\0\0\0\0\x11\0"), "holds text that is not Unicode"),
        (npy(">U1", (2,), b"\0\0\0a\0\x11\0\0"), "holds text that is not Unicode"),
        (npy("<f4", "(" * 5000), ""),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 5000, ""),
        (b"\x93NUMPY\x03\x00" + npy("<f4", ())[8:], "an .npy version that is not known"),
        (b"", ""),
    ],
)
def test_forged_headers(tmp_path, header, reason):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = foreign(tmp_path / "f.npz", compression, x=header)
        assert reason in refusal(path, read_arrays)
    write(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", lambda members: members.update({"params.npy": header}))
    assert reason in refusal(tmp_path / "a.npz")


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    header = npy("|u1", (2**30 - 100,))
    bomb = foreign(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, x=header + bytes(2**22))
    data = bytearray(bomb.read_bytes())
    size = struct.pack("<I", len(header) + 2**22)
    assert data.count(size) == 2
    forged = bytes(data).replace(size, struct.pack("<I", len(header) + 2**30 - 100))
    bomb.write_bytes(forged)
    assert refusal(bomb, read_arrays) == "'x.npy' claims to be larger than its bytes can be"

    stored = foreign(tmp_path / "stored.npz", x=header + b"abc")
    size = struct.pack("<I", len(header) + 3)
    larger = struct.pack("<I", len(header) + 2**30 - 100)
    stored.write_bytes(stored.read_bytes().replace(size, larger))
    assert refusal(stored, read_arrays) == "it claims to hold more than its size"

    write(tmp_path / "a.npz")
    rezip(tmp_path / "a.npz", lambda members: members.update({"params.npy": header + b"abc"}))
    data = (tmp_path / "a.npz").read_bytes()
    assert data.count(size) >= 4
    (tmp_path / "a.npz").write_bytes(data.replace(size, larger))
    assert refusal(tmp_path / "a.npz") == "it claims to hold more than its size"


def test_memory_that_a_short_stream_does_not_fill_is_not_handed_out(tmp_path):
    header = npy("|u1", (90,))
    path = foreign(tmp_path / "s.npz", zipfile.ZIP_DEFLATED, x=header + bytes(80))
    size, larger = struct.pack("<I", len(header) + 80), struct.pack("<I", len(header) + 90)
    assert path.read_bytes().count(size) == 2
    path.write_bytes(path.read_bytes().replace(size, larger))
    assert refusal(path, read_arrays) == "EOF: reading array data, expected 90 bytes got 80"


def test_a_bomb_is_bounded_by_max_bytes(tmp_path):
    path = foreign(tmp_path / "b.npz", zipfile.ZIP_DEFLATED, x=npy("|u1", (2**22,), bytes(2**22)))
    assert path.stat().st_size < 5000
    assert len(read_arrays(path)["x"]) == 2**22
    assert "more than the 4000000 allowed" in refusal(path, read_arrays, max_bytes=4_000_000)


@pytest.mark.parametrize("n_entries", [20_000, 200_000])
def test_a_directory_of_many_entries_takes_no_memory(tmp_path, n_entries):
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 6) + bytes(16)  # a name of 6 bytes
    entries = b"".join(entry + b"%06d" % i for i in range(n_entries))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(entries), 0, 0)
    (tmp_path / "d.npz").write_bytes(entries + end)
    refusal(tmp_path / "d.npz")


def test_methods_that_numpy_does_not_write_and_passwords(tmp_path):
    path = foreign(tmp_path / "l.npz", zipfile.ZIP_LZMA, x=npy("<f4", (3,), bytes(12)))
    assert refusal(path, read_arrays) == "'x.npy' is compressed by a method .npz does not use"
    path = foreign(tmp_path / "p.npz", x=npy("<f4", (3,), bytes(12)))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert "password" in refusal(path, read_arrays)


# ---- any .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_foreign_arrays(tmp_path, save):
    x = np.random.default_rng(0).integers(0, 255, (300, 28, 28), np.uint8)
    arrays = {"x": x, "f": np.asfortranarray(x[0]), "big": np.arange(5, dtype=">i4")}
    save(tmp_path / "a.npz", **arrays)
    for name, array in read_arrays(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype
        assert array.flags.f_contiguous == arrays[name].flags.f_contiguous
    assert list(read_arrays(tmp_path / "a.npz", names=("f",))) == ["f"]
    assert refusal(tmp_path / "a.npz", read_arrays, names=("y",)) == (
        "it has no array 'y'; it holds x, f, big"
    )


def test_a_forged_name_does_not_break_the_line(tmp_path):
    path = foreign(tmp_path / "a.npz", **{"x\nTraceback": npy("<f4", (), bytes(4))})
    assert refusal(path, read_arrays, names=("y",)).startswith("it has no array 'y'; it holds x")


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    assert "dtype object" in refusal(tmp_path / "a.npz", read_arrays)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reading_takes_the_arrays_and_little_more(tmp_path, save):
    x = np.random.default_rng(0).integers(0, 255, 10_000_000, np.uint8)
    save(tmp_path / "a.npz", x=x)
    del x
    tracemalloc.start()
    arrays = read_arrays(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert arrays["x"].nbytes <= peak < arrays["x"].nbytes + 8e6


def test_saving_copies_nothing(tmp_path):
    x = np.random.default_rng(0).random((2000, 2000))
    tracemalloc.start()
    write(tmp_path / "a.npz", {"x": x})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    assert np.array_equal(read(tmp_path / "a.npz")[0]["x"], x)


def test_numpy_is_all_it_imports():
    code = "import sys, minidl.archive; print(*{'scipy', 'sklearn', 'yaml'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
