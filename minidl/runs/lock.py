"""A lock on a file that its process holds, and that ends with the process however it ends."""

from __future__ import annotations

import os
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

FAR = 2**30  # Windows lets nobody read a locked byte: this one is behind the contents


def lock(file: TextIO) -> None:
    """Take the lock on an open file, at once; BlockingIOError where another process holds it.

    Closing the file releases it. On a system without locks nothing is done.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(file.fileno(), FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, "locked by another process") from error
