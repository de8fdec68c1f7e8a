"""A file is replaced wholly or not at all, whatever the disk, a signal or a kill does."""

import errno
import io
import os
import resource

import pytest

from minidl import atomic
from minidl.atomic import remove_leftovers, replace_file
from minidl.errors import CheckpointError

NAMES = ["last", "previous"]


class Faults:
    """Counts the calls that reach the disk and lets chosen ones fail.

    `at` is the first call that fails, `forever` whether all after it fail too, which leaves on
    the disk what a kill at that moment leaves: no clean-up succeeds either.
    """

    def __init__(self, monkeypatch, at=None, code=errno.EIO, forever=False):
        self.at, self.code, self.forever = at, code, forever
        self.calls = []
        for name in ("fsync", "replace", "link", "unlink", "open"):
            monkeypatch.setattr(os, name, self.faulty(name, getattr(os, name)))
        faults = self

        class Raw(io.FileIO):
            def write(self, data):
                faults.count("write")
                return super().write(data)

        def open_(path, mode):
            faults.count("create")
            return io.BufferedWriter(Raw(path, mode), 1000)

        monkeypatch.setattr(atomic, "open", open_, raising=False)

    def count(self, name):
        self.calls.append(name)
        n = len(self.calls) - 1
        if self.at is not None and (n == self.at or (self.forever and n > self.at)):
            raise OSError(self.code, os.strerror(self.code))

    def faulty(self, name, real):
        def call(*args, **options):
            self.count(name)
            return real(*args, **options)

        return call


def write(path, n, previous=None):
    """Put generation `n` at `path`: a few thousand bytes that tell whether they are whole."""

    def contents(file):
        for _ in range(4):
            file.write(b"%d" % n * 700)

    replace_file(path, contents, previous=previous)


def n_of(path):
    data = path.read_bytes()
    assert len(data) == 2800 and len(set(data)) == 1
    return int(data[:1])


def two_generations(folder):
    """`last` and `previous` with generations 2 and 1, and nothing else."""
    for file in folder.iterdir():
        file.unlink()
    last, previous = folder / "last", folder / "previous"
    write(last, 1)
    write(last, 2, previous)
    return last, previous


def calls_of_a_write(folder):
    last, previous = two_generations(folder)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch)
        write(last, 3, previous)
    assert (n_of(last), n_of(previous)) == (3, 2)
    return faults.calls


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write(tmp_path / "last", 1)
    (tmp_path / "usual").touch()
    assert (tmp_path / "last").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_previous_file_is_kept(tmp_path):
    last, previous = two_generations(tmp_path)
    write(last, 3, previous)
    assert (n_of(last), n_of(previous)) == (3, 2)
    assert sorted(os.listdir(tmp_path)) == NAMES
    assert last.stat().st_nlink == previous.stat().st_nlink == 1
    write(last, 4)
    assert (n_of(last), n_of(previous)) == (4, 2)
    with pytest.raises(ValueError, match=r"^previous must be in the folder"):
        write(last, 5, tmp_path.parent / "previous")


def test_synced_before_renamed_and_the_folder_after(tmp_path):
    calls = [call for call in calls_of_a_write(tmp_path) if call not in ("write", "unlink")]
    synced_folder = ["open", "fsync"]
    assert calls == [
        *("create", "fsync", "link", "replace", *synced_folder),
        *("replace", *synced_folder),
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_fault_at_any_call_loses_nothing(tmp_path, code):
    calls = calls_of_a_write(tmp_path)
    assert calls.count("write") >= 3
    for at in range(len(calls)):
        last, previous = two_generations(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, at, code)
            try:
                write(last, 3, previous)
                assert calls[at] == "unlink"  # the one call that may fail quietly
            except CheckpointError as error:
                line = f"cannot write {last}: {os.strerror(code)}; the last good file is kept; "
                assert str(error).startswith(line) and isinstance(error.__cause__, OSError)
        assert (n_of(last), n_of(previous)) in ((2, 1), (3, 1), (3, 2))
        assert sorted(os.listdir(tmp_path)) == NAMES
        write(last, 4, previous)
        assert n_of(last) == 4 and n_of(previous) in (2, 3)


def test_a_kill_at_any_call_loses_nothing(tmp_path):
    removed = 0
    for at in range(len(calls_of_a_write(tmp_path))):
        last, previous = two_generations(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, at, forever=True)
            try:
                write(last, 3, previous)
            except CheckpointError:
                pass
        assert (n_of(last), n_of(previous)) in ((2, 1), (3, 1), (3, 2))
        removed += remove_leftovers(tmp_path)
        assert sorted(os.listdir(tmp_path)) == NAMES
        write(last, 4, previous)
        assert n_of(last) == 4 and n_of(previous) in (2, 3)
        assert sorted(os.listdir(tmp_path)) == NAMES
    assert removed > 5


def test_an_interrupted_call_is_repeated(tmp_path):
    for at, call in enumerate(calls_of_a_write(tmp_path)):
        last, previous = two_generations(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, at, errno.EINTR)
            write(last, 3, previous)
        assert (n_of(last), n_of(previous)) == (3, 2), call


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_one_good_file_stands_at_every_call(tmp_path, monkeypatch, code):
    def link(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    for at in range(len(calls_of_a_write(tmp_path))):
        last, previous = two_generations(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, at, forever=True)
            try:
                write(last, 3, previous)
            except CheckpointError:
                pass
        assert n_of(last if last.exists() else previous) in (2, 3)
        remove_leftovers(tmp_path)
        write(last, 4, previous)
        assert n_of(last) == 4


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "last", 1)
    assert n_of(tmp_path / "last") == 1


def test_a_really_full_disk(tmp_path):
    """The operating system's own refusal: a limit on the size of files."""
    last, previous = two_generations(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, 2800, 350):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CheckpointError, match="kept; raise the limit on the size of files"):
                write(last, 3, previous)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (n_of(last), n_of(previous)) == (2, 1)
        assert sorted(os.listdir(tmp_path)) == NAMES


def test_what_the_writer_raises_leaves_the_old_file(tmp_path):
    def write_half(file):
        file.write(b"half")
        raise KeyboardInterrupt

    last, previous = two_generations(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        replace_file(last, write_half, previous=previous)
    assert (n_of(last), n_of(previous)) == (2, 1)
    assert sorted(os.listdir(tmp_path)) == NAMES


def test_a_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*no/last: No such .*make its folder"):
        write(tmp_path / "no" / "last", 1)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    leftovers = [".last.npz.0123abcd.tmp", ".model.npz.ffffffff.tmp"]
    others = [".last.npz.tmp", "x.tmp", ".hidden", "last.npz", "last.npz.0123abcd.tmp"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".cannot be removed.00000000.tmp").mkdir()
    assert remove_leftovers(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".cannot be removed.00000000.tmp"])
    assert remove_leftovers(tmp_path / "not yet made") == 0
