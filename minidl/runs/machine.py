"""The machine of a run: versions, processor, memory, time of day."""

import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np

from minidl import blas, kernels
from minidl._version import __version__

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]


def describe() -> dict[str, Any]:
    """Return the versions and the processor, on which the bits of a run may depend."""
    built_with = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    described = {
        "minidl": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{built_with.get('name')} {built_with.get('version')}",
        "blas_core": None if blas.NUMPY is None else blas.NUMPY.core,  # whose code it runs
        "kernels": kernels.name(),
        "products_on": "crew" if kernels.has_crew() else "threads of the BLAS",
        "platform": platform.platform(),
        "processor": _field("/proc/cpuinfo", "model name")
        or platform.processor()
        or platform.machine(),
        "cores": os.cpu_count(),
    }
    if blas.CORE_VARIABLE in os.environ:
        described[blas.CORE_VARIABLE] = os.environ[blas.CORE_VARIABLE]
    return described


def now() -> str:
    """Return the time of day in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_bytes() -> int | None:
    """Return the peak memory of this process so far; None where this cannot be found out."""
    if resource is None:
        return None
    # getrusage also counts what the parent held when it started this process.
    if (kilobytes := _field("/proc/self/status", "VmHWM")) is not None:
        return 1024 * int(kilobytes.split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _field(path: str, name: str) -> str | None:
    """A value of `name: value` in a file of Linux; None where there is none."""
    with suppress(OSError), open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return None
