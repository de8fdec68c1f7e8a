"""The ranks of an MPI job: processes that train one model together, each with a block of shards.

A job is started by `mpiexec -n 4 python -m mpi4py scripts/train.py CONFIG train.shards=4`. All
ranks hold the same parameters and make the same update; each computes the gradients of its own
shards, and the sums are those of one process, bit for bit. mpi4py (`pip install "minidl[mpi]"`) is
imported only in such a job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from minidl.data.batches import Transform
from minidl.errors import ConfigError
from minidl.evaluation import ROWS_AT_ONCE, Views, predict_outputs
from minidl.kernels import Array
from minidl.model import Sequential
from minidl.shards import block_size, shard_bounds, tree_sum

# The number of processes as the mpiexec of MPICH, Intel MPI and Slurm, or Open MPI tells it.
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
SHARED_MEMORY = "/dev/shm"
SHARED_BYTES = 16 << 20  # of it that MPICH takes for each rank, and some to spare


class Ranks:
    """This process among the ranks of its job.

    rank: from 0.  size: the number of ranks.
    per_node: the largest number of ranks on one machine.
    boards: from an array to one like it of each rank, in memory that all ranks see; None where the
    ranks are on several machines, and so exchange messages.
    phase: what the ranks are doing, see `minidl.runs.job`.
    asks_to_stop: returns a number above 0 where this rank wants training to stop; it travels with
    the gradients.  stop: the largest such number of all ranks, known to all after the same step.
    """

    def __init__(
        self,
        comm: Any,
        per_node: int = 1,
        boards: Callable[[Array], list[Array]] | None = None,
    ) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.per_node = max(self.gather(per_node))
        self.phase = "waiting"
        self.asks_to_stop: Callable[[], int] = int
        self.stop = 0
        self._make_boards = boards
        self._boards: list[Array] = []
        self._received = np.empty((0, 0))

    @classmethod
    def of_this_job(cls) -> Ranks | None:
        """Return this process's rank; None for a process that was not started as one of several.

        Raises ConfigError where the job cannot work.
        """
        started = max(int(os.environ.get(name) or 1) for name in SIZE_VARIABLES)
        if started == 1:
            return None
        _check_shared_memory(started)
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise ConfigError(
                f'a job of {started} ranks needs mpi4py: pip install "minidl[mpi]" ({error})'
            ) from error
        world = MPI.COMM_WORLD

        def boards(array: Array) -> list[Array]:
            window: Any = MPI.Win.Allocate_shared(array.nbytes, array.itemsize, comm=world)
            memory = (window.Shared_query(rank)[0] for rank in range(started))
            return [np.frombuffer(each, array.dtype) for each in memory]

        per_node = world.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
        ranks = cls(world, per_node, boards if per_node == started else None)
        if ranks.size != started:
            library = MPI.Get_library_version().splitlines()[0].strip(" \x00")
            raise ConfigError(
                f"mpiexec started {started} processes, and each is alone: that mpiexec is not of "
                f"the MPI that mpi4py uses, {library}; use {sys.prefix}/bin/mpiexec"
            )
        # Also without `-m mpi4py`: no rank waits for a dead one.
        sys.excepthook = lambda kind, error, traceback: ranks.abort_by(error)
        return ranks

    def abort(self, code: int) -> NoReturn:
        """End all ranks of the job at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.comm.Abort(code)
        raise SystemExit(code)

    def abort_by(self, error: BaseException) -> NoReturn:
        """End the job with the last line of a traceback."""
        if isinstance(error, SystemExit):
            self.abort(int(error.code or 0))
        print(f"rank {self.rank}: {type(error).__name__}: {error}", file=sys.stderr)
        self.abort(128 + 2 if isinstance(error, KeyboardInterrupt) else 1)

    def share(self, thing: Any = None) -> Any:
        """Return what rank 0 gives, on all ranks."""
        return self.comm.bcast(thing)

    def start(self, state: Any = None) -> Any:
        """Begin the steps on all ranks, from the state that rank 0 gives."""
        state = self.share(state)
        self.phase = "training"
        return state

    def gather(self, thing: Any) -> list[Any]:
        """Return what each rank gives, on all ranks."""
        found: list[Any] = self.comm.allgather(thing)
        return found

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Raise ConfigError, with the difference, where the ranks do not give the same facts.

        Equal bits are promised only between equal processors, versions and data.
        """
        for rank, others in enumerate(self.gather(dict(facts))):
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
        """Return memory for a gradient, from where `add_up` adds it fastest."""
        needed = self.size * (gradient.nbytes + SHARED_BYTES)
        free = _free_shared_memory()
        if self._make_boards is None or not self.share(free is None or free >= needed):
            return gradient
        self._boards = self._make_boards(gradient)
        own: Array = self._boards[self.rank]
        return own

    def add_up(self, gradient: Array, scalars: Array, n_active: int) -> None:
        """Replace both by their sums over the first `n_active` ranks, in the tree of the shards.

        Each rank adds one segment of the gradients of all ranks, and all take its sum.
        """
        bounds = [slice(*each) for each in shard_bounds(gradient.size, self.size)]
        own = gradient[bounds[self.rank]]
        if self._boards:
            self.comm.Barrier()
            tree_sum([each[bounds[self.rank]] for each in self._boards[:n_active]], own)
            self.comm.Barrier()
            for board, segment in zip(self._boards, bounds, strict=True):
                if board is not gradient:
                    gradient[segment] = board[segment]
        else:
            self._add_up_by_messages([gradient[each] for each in bounds], n_active)
        mine = np.append(scalars, float(self.asks_to_stop()))
        everyone = np.empty((self.size, mine.size))
        self.comm.Allgather(mine, everyone)  # after it, all ranks have taken the sums of all
        self.stop = int(everyone[:, -1].max())
        tree_sum(list(everyone[:n_active, :-1]), scalars)

    def _add_up_by_messages(self, segments: list[Array], n_active: int) -> None:
        own = segments[self.rank]
        if self._received.shape != (self.size, own.size) or self._received.dtype != own.dtype:
            self._received = np.empty((self.size, own.size), own.dtype)
        parts = list(self._received)
        parts[self.rank] = own
        others = [
            ((self.rank + k) % self.size, (self.rank - k) % self.size) for k in range(1, self.size)
        ]
        for to, source in others:
            self.comm.Sendrecv(segments[to], to, 0, parts[source], source)
        tree_sum(parts[:n_active], own)
        for to, source in others:
            self.comm.Sendrecv(own, to, 0, segments[source], source)

    def predict_outputs(
        self,
        model: Sequential,
        X: Any,
        *,
        transform: Transform | None = None,
        views: Views | None = None,
    ) -> Array:
        """`minidl.evaluation.predict_outputs`, a part of the rows on each rank."""
        n_rows = X.shape[0]
        first, last = shard_bounds(-(-n_rows // ROWS_AT_ONCE), self.size)[self.rank]
        own = X[first * ROWS_AT_ONCE : min(last * ROWS_AT_ONCE, n_rows)]
        outputs = predict_outputs(model, own, transform=transform, views=views)
        return np.concatenate(self.gather(outputs if first < last else outputs[:0]))


def _free_shared_memory() -> int | None:
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # not on this system
        return None
    return found.f_bavail * found.f_frsize


def _check_shared_memory(n_ranks: int) -> None:
    """MPI keeps messages there: where it is too small, ranks die by SIGBUS."""
    free, needed = _free_shared_memory(), n_ranks * SHARED_BYTES
    if free is not None and free < needed and "MPIR_CVAR_NOLOCAL" not in os.environ:
        raise ConfigError(
            f"{SHARED_MEMORY} has {free >> 20} MiB free, and {n_ranks} ranks need "
            f"{needed >> 20} MiB: enlarge it (docker run --shm-size=1g), or set "
            "MPIR_CVAR_NOLOCAL=1 to let MPI do without, slower"
        )
