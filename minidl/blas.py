"""The BLAS libraries that NumPy and SciPy call: where they are, and how many threads they use.

OpenBLAS has one number of threads for the whole process. Two libraries whose threads run at once
fight for the cores, and so do the threads of a library and the crew of `_kernels.c`. So this module
counts who wants how many threads, and sets each library to the smallest number.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # then a BLAS other than OpenBLAS keeps the number that it was started with
    ThreadpoolController = None

# Read by a process when it loads its BLAS.
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
THREAD_VARIABLES = (*BLAS_VARIABLES, "OMP_NUM_THREADS")
CORE_VARIABLE = "OPENBLAS_CORETYPE"  # makes OpenBLAS run the code of another processor

# Before and after the name of a function: NumPy's wheels, SciPy's wheels, NumPy's wheels before
# version 2, and what Debian, conda and others build.
_NAMES = (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""))
THREADS_PAY = 1_000_000  # multiplications; less work is not worth sharing
_OPENMP = 2  # openblas_get_parallel(): threads of OpenMP

_changing = threading.RLock()  # held while a number is changed, and while the process forks
_found: list[OpenBLAS] = []


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def automatic_threads(n_multiplications: float) -> int:
    """Return how many threads pay for work of so many multiplications in products.

    No more than OMP_NUM_THREADS says: joblib sets it in the workers of a search, so that they
    share the cores.
    """
    if n_multiplications < THREADS_PAY:
        return 1
    cores = usable_cores()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, max(1, int(limit))) if limit.isdecimal() else cores


class OpenBLAS:
    """An OpenBLAS library with threads of its own, loaded in this process.

    narrow: whether its sizes have 32 bits, not 64.  core: the processor that its code is for.
    addresses: of its functions sgemm, dgemm, sgemv, dgemv, get_num_threads and set_num_threads.
    """

    def __init__(self, library: ctypes.CDLL, prefix: str, suffix: str) -> None:
        def function(name: str) -> Any:
            return library[f"{prefix}{name}{suffix}"]

        products = [function(f"cblas_{name}") for name in ("sgemm", "dgemm", "sgemv", "dgemv")]
        self._get, self._set = (function(f"openblas_{what}_num_threads") for what in ("get", "set"))
        functions = [*products, self._get, self._set]
        self.addresses = [ctypes.cast(each, ctypes.c_void_p).value for each in functions]
        self.narrow = not suffix
        get_core = function("openblas_get_corename")
        get_core.restype = ctypes.c_char_p
        self.core = get_core().decode()
        self.uses_openmp = function("openblas_get_parallel")() == _OPENMP
        self._wanted: dict[tuple[int, object], int] = {}  # by Python thread and request
        self._before = 1
        self._held: int | None = None  # what it was last set to, while there are requests

    def threads(self) -> int:
        """Return the present number of threads."""
        return int(self._get())

    @contextmanager
    def limited_to(self, n: int) -> Iterator[None]:
        """Hold the library at `n` threads, or at fewer where somebody else wants fewer.

        When the last request ends, the library gets back the number it had before the first.
        """
        request = threading.get_ident(), object()
        try:
            self._change(request, n)
            yield
        finally:
            try:
                self._change(request, None)
            except BaseException:  # Ctrl-C, while it was changed
                self._change(request, None)
                raise

    def hold(self) -> None:
        """Set the number again if somebody else in this process has changed it meanwhile."""
        held = self._held
        if held is not None and self._get() != held:
            with _changing:
                self._set(held)

    def forget_other_threads(self) -> None:
        """Drop the requests of threads that a forked child has not inherited."""
        me = threading.get_ident()
        others = [request for request in self._wanted if request[0] != me]
        for request in others:
            self._change(request, None)

    def _change(self, request: tuple[int, object], n: int | None) -> None:
        with _changing:
            if n is None:
                self._wanted.pop(request, None)
            else:
                if not self._wanted:
                    self._before = self._get()
                self._wanted[request] = n
            if self._wanted:
                self._held = min(self._wanted.values())
                self._set(self._held)
            elif self._held is not None:  # None: Ctrl-C came before the request was made
                self._set(self._before)
                self._held = None


def find(package: Path, extension: str) -> OpenBLAS | None:
    """Return the OpenBLAS that an extension module of a package is linked with.

    None where it is linked with another BLAS, or with an OpenBLAS on OpenMP, whose number of
    threads is another one in each thread.
    """
    # Looking up a name in a library looks in the libraries that it is linked with as well, but
    # not on Windows.
    beside = package.parent / f"{package.name}.libs"
    for path in (*package.glob(extension), *beside.glob("*openblas*")):
        with suppress(OSError):
            library = ctypes.PyDLL(str(path))  # its functions are called with Python's lock held
            for names in _NAMES:
                with suppress(AttributeError):
                    found = OpenBLAS(library, *names)
                    if found.uses_openmp:
                        return None
                    _found.append(found)
                    return found
    return None


@contextmanager
def limited_to(n: int, library: OpenBLAS | None) -> Iterator[None]:
    """Hold a library at `n` threads; for None, each BLAS here that threadpoolctl knows."""
    if library is not None:
        with library.limited_to(n):
            yield
    elif ThreadpoolController is not None:
        found = ThreadpoolController().select(user_api="blas")
        with found.limit(limits=n):
            held = [each.num_threads for each in found.lib_controllers]
            yield
            if held != [each.num_threads for each in found.lib_controllers]:
                warnings.warn(
                    "somebody else changed the number of BLAS threads meanwhile: results may "
                    "differ in the last digits",
                    stacklevel=4,
                )
    else:
        yield


def _after_fork_in_child() -> None:
    for library in _found:
        library.forget_other_threads()
    _changing.release()


if hasattr(os, "register_at_fork"):  # a forked child must not inherit a lock that nobody releases
    os.register_at_fork(
        before=_changing.acquire,
        after_in_parent=_changing.release,
        after_in_child=_after_fork_in_child,
    )

NUMPY = find(Path(np.__file__).parent, "*core/_multiarray_umath.*")
