"""The threads of the BLAS that NumPy brings, and the cores that there are for them."""

from __future__ import annotations

import os

# Read by a process when it loads its BLAS.
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
THREAD_VARIABLES = (*BLAS_VARIABLES, "OMP_NUM_THREADS")


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
