"""The memory of this machine, and a check before a large part of it is taken."""

import os
from pathlib import Path

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes() -> int | None:
    """The memory that this process may use: that of the machine, or of its container.

    None where this cannot be found out.
    """
    known = []
    try:
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        pass
    for file in LIMITS:
        try:
            known.append(int(file.read_text()))
        except (OSError, ValueError):  # not in a container, or without a limit
            pass
    return min((n for n in known if n > 0), default=None)


def check_memory(n_bytes: int, what: str) -> None:
    """Raise ValueError where `what` needs more memory than there is."""
    available = memory_bytes()
    if available is not None and n_bytes > available:
        raise ValueError(
            f"{what} need {n_bytes / 2**30:.3g} GiB; this machine has {available / 2**30:.3g} GiB"
        )
