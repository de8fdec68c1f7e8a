"""The ranks of an MPI job: processes that train one model together, each with a block of shards.

A job is started by `mpiexec -n 4 python -m mpi4py scripts/train.py CONFIG train.shards=4`. All
ranks hold the same parameters and make the same update; each computes the gradients of its own
shards, and the sums are those of one process, bit for bit. mpi4py (`pip install "minidl[mpi]"`) is
imported only in such a job.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from minidl.data.batches import Transform
from minidl.errors import ConfigError, MinidlError
from minidl.evaluation import ROWS_AT_ONCE, predict_outputs
from minidl.kernels import Array
from minidl.model import Sequential

# The number of processes as the mpiexec of MPICH, Intel MPI and Slurm, or Open MPI tells it.
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
SHARED_MEMORY = "/dev/shm"
SHARED_BYTES = 16 << 20  # of it that MPICH takes for each rank, and some to spare

FORWARDED = 0.2  # seconds in which mpiexec writes what a rank has said, before it ends all


class Ranks:
    """This process among the ranks of its job.

    open_window: from the number of bytes and the size of a number to memory of which the other
    ranks can read any part, a window of MPI.
    rank: from 0.  size: the number of ranks.
    per_node: the largest number of ranks on one machine.
    phase: what the ranks are doing, see `minidl.runs.job`.
    asks_to_stop: returns a number above 0 where this rank wants training to stop; it travels with
    the gradients.  stop: the largest such number of all ranks, known to all after the same step.
    """

    def __init__(self, comm: Any, open_window: Callable[[int, int], Any], per_node: int = 1):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.per_node = max(self.comm.allgather(per_node))
        self.phase = "waiting"
        self.asks_to_stop: Callable[[], int] = int
        self.stop = 0
        self._open_window = open_window

    @classmethod
    def of_this_job(cls) -> Ranks | None:
        """Return this process's rank; None for a process that was not started as one of several.

        Raises ConfigError where the job cannot work.
        """
        started = max(int(os.environ.get(name) or 1) for name in SIZE_VARIABLES)
        if started == 1:
            return None
        check_shared_memory(started * SHARED_BYTES)
        try:
            import mpi4py

            mpi4py.rc(initialize=False, finalize=True)
            from mpi4py import MPI
        except ImportError as error:
            raise ConfigError(
                f'a job of {started} ranks needs mpi4py: pip install "minidl[mpi]" ({error})'
            ) from error
        world, library = MPI.COMM_WORLD, MPI.Get_library_version().splitlines()[0].strip(" \x00")
        is_foreign = "OMPI_COMM_WORLD_SIZE" in os.environ and "Open MPI" not in library
        if not is_foreign and not MPI.Is_initialized():  # under a foreign one it may fail
            MPI.Init_thread()
        if is_foreign or world.Get_size() != started:
            raise ConfigError(
                f"mpiexec started {started} processes, and each is alone: that mpiexec is not of "
                f"the MPI that mpi4py uses, {library}; use {sys.prefix}/bin/mpiexec"
            )

        def open_window(n_bytes: int, unit: int) -> Any:
            window = MPI.Win.Allocate(n_bytes, unit, comm=world)
            atexit.register(window.Free)
            return window

        return cls(world, open_window, world.Split_type(MPI.COMM_TYPE_SHARED).Get_size())

    def abort(self, error: BaseException) -> NoReturn:
        """End all ranks of the job at once; say the last line of a traceback."""
        kind = "" if isinstance(error, MinidlError) else f"{type(error).__name__}: "
        sys.stdout.flush()
        print(f"rank {self.rank}: {kind}{error}", file=sys.stderr, flush=True)
        time.sleep(FORWARDED)
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        self.comm.Abort(code)
        raise SystemExit(code)

    def start(self, state: Any = None) -> Any:
        """Begin the steps on all ranks, from the state that rank 0 gives."""
        state = self.comm.bcast(state)
        self.phase = "training"
        return state

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Raise ConfigError, with the difference, where the ranks do not give the same facts.

        Equal bits are promised only between equal processors, versions and data.
        """
        for rank, others in enumerate(self.comm.allgather(dict(facts))):
            for name, value in facts.items():
                if others[name] != value:
                    raise ConfigError(
                        f"the ranks differ: {name} is {str(value)[:200]} on rank {self.rank} and "
                        f"{str(others[name])[:200]} on rank {rank}"
                    )

    def block(self, n_shards: int) -> slice:
        """The shards that this rank computes."""
        size = block_size(n_shards, self.size)
        return slice(self.rank * size, (self.rank + 1) * size)

    def lend(self, gradient: Array) -> Array:
        """Return memory for the gradient of `add_up`, which the other ranks can read."""
        if self.per_node > 1:  # there MPI keeps it in the shared memory
            check_shared_memory(self.per_node * gradient.nbytes)
        self._window = self._open_window(gradient.nbytes, gradient.itemsize)
        self._bounds = shard_bounds(gradient.size, self.size)
        start, stop = self._bounds[self.rank]
        self._parts = list(np.empty((self.size, stop - start), gradient.dtype))
        return np.frombuffer(self._window, gradient.dtype)

    def add_up(self, gradient: Array, scalars: Array, n_active: int) -> None:
        """Replace both by their sums over the first `n_active` ranks, in the tree of the shards.

        Each rank reads one segment of the gradients of all ranks, adds them up in its own, and
        reads the sums of the others.  Each `Fence` waits for all ranks and what they read.
        """
        start, stop = self._bounds[self.rank]
        own = self._parts[self.rank] = gradient[start:stop]
        others = [(self.rank + k) % self.size for k in range(1, self.size)]
        self._window.Fence()
        for rank in others:
            self._window.Get(self._parts[rank], rank, start)
        self._window.Fence()
        if (total := tree_sum(self._parts[:n_active], own)) is not own:
            own[:] = total
        self._window.Fence()
        for rank in others:
            first, last = self._bounds[rank]
            self._window.Get(gradient[first:last], rank, first)
        self._window.Fence()
        mine = np.append(scalars, float(self.asks_to_stop()))
        everyone = np.empty((self.size, mine.size))
        self.comm.Allgather(mine, everyone)
        self.stop = int(everyone[:, -1].max())
        scalars[:] = tree_sum(list(everyone[:n_active, :-1]))

    def predict_outputs(
        self, model: Sequential, X: Any, *, transform: Transform | None = None
    ) -> Array:
        """`minidl.evaluation.predict_outputs`, a part of the rows on each rank."""
        n_rows = X.shape[0]
        first, last = shard_bounds(-(-n_rows // ROWS_AT_ONCE), self.size)[self.rank]
        own = X[first * ROWS_AT_ONCE : min(last * ROWS_AT_ONCE, n_rows)]
        outputs = predict_outputs(model, own, transform=transform)
        return np.concatenate(self.comm.allgather(outputs if first < last else outputs[:0]))


def check_shared_memory(needed: int) -> None:
    """Raise ConfigError where less is free: MPI keeps messages there, and dies by SIGBUS."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # not on this system
        return
    free = found.f_bavail * found.f_frsize
    if free < needed and "MPIR_CVAR_NOLOCAL" not in os.environ:
        raise ConfigError(
            f"{SHARED_MEMORY} has {free >> 20} MiB free, and the ranks need {needed >> 20} MiB: "
            "enlarge it (docker run --shm-size=1g), or set MPIR_CVAR_NOLOCAL=1 to let MPI do "
            "without, slower"
        )


def half_of(n: int) -> int:
    """Return how many of n things the left half of the tree holds: 2**k < n; 0 of a single one.

    The sum of n arrays is that of the left half plus that of the others, each made in the same way:
    ((0 + 1) + (2 + 3)) + (4 + 5). So an aligned block of 2**k arrays is a partial sum of the whole.
    """
    return 1 << (n - 1).bit_length() >> 1


def tree_sum(arrays: Sequence[Array], out: Array | None = None) -> Array:
    """Return the sum of arrays in the order of `half_of`; several are added up in `out`.

    `out` may be one of them.
    """
    if (half := half_of(len(arrays))) == 0:
        return arrays[0]
    return np.add(tree_sum(arrays[:half]), tree_sum(arrays[half:]), out=out)


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]


def block_size(n_shards: int, n_ranks: int) -> int:
    """Return how many consecutive shards a rank computes: the smallest power of two that is enough.

    So each rank holds an aligned block, whose sum is a partial sum of the tree.
    """
    return 1 << (-(-n_shards // n_ranks) - 1).bit_length()
