"""Files are replaced so that no crash, full disk or signal loses both the old and the new one.

The new file is written beside the old one, synced, and only then renamed over it; then the
folder is synced.  Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014
(what a file system may reorder, and why the folder is synced too).
"""

import errno
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from minidl.errors import CheckpointError

Result = TypeVar("Result")

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space within your quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.ENOENT: "make its folder first",
    errno.EACCES: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], *, previous: Path | None = None
) -> None:
    """Write a new file at `path`; a crash leaves a good file there or at `previous`.

    write     : given the open new file, writes its contents
    previous  : where the present file at `path` is kept, in the same folder

    Raises `CheckpointError` for what the disk refuses; the old files are intact after it, as
    they are after anything that `write` raises.
    """
    path = Path(path)
    if previous is not None and Path(previous).parent != path.parent:
        raise ValueError(f"previous must be in the folder of {path}, got {previous}")
    temporary, link = _temporary(path), _temporary(path)
    try:
        with _retry(lambda: open(temporary, "xb")) as file:
            write(file)
            file.flush()
            _retry(lambda: os.fsync(file.fileno()))
        _put_in_place(temporary, path, previous, link)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check that disk")
        kept = "the last good file is kept; " if os.path.exists(path) else ""
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; {kept}{advice}"
        ) from error
    finally:
        for leftover in (temporary, link):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that killed writers left in `folder`; return how many.

    The caller must be the only writer of the folder, that is, hold the lock of the run.  Another
    writer whose file is removed fails with `CheckpointError` and loses nothing.
    """
    removed = 0
    for file in Path(folder).glob(".*.tmp"):
        if is_leftover(file.name):
            with suppress(OSError):  # it only takes up space
                file.unlink()
                removed += 1
    return removed


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one that `replace_file` writes before it renames it."""
    return _TEMPORARY.fullmatch(name) is not None


def _put_in_place(temporary: Path, path: Path, previous: Path | None, link: Path) -> None:
    """Rename `temporary` to `path`, and the former file at `path` to `previous`.

    A second name for the old file (a hard link) makes it safe at every instant: `path` goes
    from the old file to the new, and the older `previous` stays until the new one is durable.
    """
    if previous is None or not path.exists():
        _retry(lambda: os.replace(temporary, path))
    elif _hard_linked(path, link):
        _retry(lambda: os.replace(temporary, path))
        sync_folder(path.parent)
        _retry(lambda: os.replace(link, previous))
    else:  # `path` is missing for an instant, in which `previous` is the good file
        _retry(lambda: os.replace(path, previous))
        sync_folder(path.parent)
        _retry(lambda: os.replace(temporary, path))
    sync_folder(path.parent)


def _hard_linked(path: Path, link: Path) -> bool:
    try:
        _retry(lambda: os.link(path, link))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            return False  # FAT and some network file systems have no links
        raise
    return True


def sync_folder(folder: Path) -> None:
    """Make what was made or renamed in a folder durable. Raises OSError."""
    if os.name != "posix":  # Windows opens no folders; it journals renames itself
        return
    descriptor = _retry(lambda: os.open(folder, os.O_RDONLY))
    try:
        _retry(lambda: os.fsync(descriptor))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _retry(call: Callable[[], Result]) -> Result:
    """Call again while a signal interrupts: Python itself (PEP 475) does so for some calls only."""
    while True:
        try:
            return call()
        except InterruptedError:
            continue


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
