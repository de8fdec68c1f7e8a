"""One training step over the shards of a batch, on as many threads as there are workers.

The arithmetic is fixed by the number of shards: their gradients are summed in order, and nothing
depends on which thread ran which shard or updated which block.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # the library then runs with whatever threads BLAS was started with
    ThreadpoolController = None

from minidl.data.batches import Rows
from minidl.losses import Head
from minidl.model import Sequential
from minidl.optimizers import Array, Block, Optimizer

_controller: Any = None


@contextmanager
def blas_threads(n: int | None) -> Iterator[None]:
    """Hold the BLAS libraries at `n` threads, and give the former number back at the end."""
    global _controller
    if n is None or ThreadpoolController is None:
        yield
        return
    if _controller is None:
        _controller = ThreadpoolController()
    with _controller.limit(limits=n, user_api="blas"):
        yield


class Crew:
    """Runs one function for each of n workers: the caller is worker 0, threads are the others.

    Hand-over is by plain locks, the cheapest that the interpreter has; an error in any worker is
    raised in the caller once all are done.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._task: Callable[[int], None] = lambda worker: None
        self._errors: list[BaseException] = []
        self._start = [threading.Lock() for _ in range(n_workers - 1)]
        self._done = [threading.Lock() for _ in range(n_workers - 1)]
        for lock in (*self._start, *self._done):
            lock.acquire()
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), daemon=True)
            for i in range(n_workers - 1)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, task: Callable[[int], None]) -> None:
        """Call task(0), ..., task(n_workers - 1) at the same time, and wait for all."""
        self._task = task
        for lock in self._start:
            lock.release()
        try:
            task(0)
        finally:
            for lock in self._done:
                lock.acquire()
        if self._errors:
            error, self._errors = self._errors[0], []
            raise error

    def close(self) -> None:
        """End the threads."""
        if self._threads:
            self.run(_leave)
            for thread in self._threads:
                thread.join()
            self._threads = []
            self._start, self._done = [], []

    def _serve(self, i: int) -> None:
        leaving = False
        while not leaving:
            self._start[i].acquire()
            task = self._task
            leaving = task is _leave
            try:
                task(i + 1)
            except BaseException as error:
                self._errors.append(error)
            done = self._done[i]
            del task
            done.release()


def _leave(worker: int) -> None:
    """The last task of a crew."""


class Stepper:
    """Runs training steps of a model: forward, loss, backward, update.

    The batch is cut into `shards` parts of consecutive rows, each run by a replica of the model.
    With `l2` the loss gains an L2 penalty of strength l2 / total weight of the batch.
    `model.params` change with every step, and `model.buffers` follow; nothing else of it is used.
    """

    def __init__(
        self,
        model: Sequential,
        head: Head,
        optimizer: Optimizer,
        *,
        shards: int = 1,
        workers: int | None = None,
        l2: float = 0.0,
    ) -> None:
        self.model, self.head, self.optimizer, self.l2 = model, head, optimizer, l2
        self.replicas = [model.replica() for _ in range(shards)]
        for replica in self.replicas:
            replica.lend_scratch()
        self.grads = self.replicas[0].grads
        self._losses = [0.0] * shards
        self._crew = Crew(min(shards, workers or shards))
        self._scratch: list[Array] = []

    def step(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        """Make one step; return the loss before it, and whether all parameters are finite after.

        Nothing is changed when the loss is not finite.
        """
        n_shards = max(1, min(len(self.replicas), batch.X.shape[0] // 2))  # two rows for batch norm
        if n_shards == 1:
            loss = self._gradients(self.replicas[0], batch, 0, None, step)
        else:
            loss = self._sharded_gradients(batch, n_shards, step)
        if not math.isfinite(loss):
            return loss, True
        if self.l2 and (total := self.head.total_weight(batch.y, batch.sample_weight)):
            loss += self.replicas[0].add_l2(self.l2 / total)
        if self.model.buffers.size:
            self._merge_buffers(batch.X.shape[0], n_shards)
        return loss, self._update(learning_rate, n_shards)

    def share_buffers(self) -> None:
        """Give the model's running statistics to all replicas."""
        for replica in self.replicas:
            replica.buffers[:] = self.model.buffers

    def close(self) -> None:
        """End the worker threads."""
        self._crew.close()

    def _gradients(
        self,
        replica: Sequential,
        batch: Rows,
        first_row: int,
        total_weight: float | None,
        step: int,
    ) -> float:
        """Forward, loss and backward of one replica over its rows."""
        replica.begin_step(step, first_row)
        outputs = replica.forward(batch.X)
        loss, d_outputs = self.head(outputs, batch.y, batch.sample_weight, total_weight)
        replica.backward(d_outputs)
        return loss

    def _sharded_gradients(self, batch: Rows, n_shards: int, step: int) -> float:
        total_weight = self.head.total_weight(batch.y, batch.sample_weight)
        bounds = shard_bounds(batch.X.shape[0], n_shards)

        def work(worker: int) -> None:
            for i in range(worker, n_shards, self._crew.n_workers):
                start, stop = bounds[i]
                self._losses[i] = self._gradients(
                    self.replicas[i], batch.select(slice(start, stop)), start, total_weight, step
                )

        self._crew.run(work)
        return sum(self._losses[:n_shards])

    def _update(self, learning_rate: float, n_shards: int) -> bool:
        """Sum the shards' gradients and update, block by block; return whether all is finite."""
        others = [replica.grads for replica in self.replicas[1:n_shards]]
        optimizer, params, grads = self.optimizer, self.model.params, self.grads
        if others and optimizer.clip_grad_norm is not None:
            for other in others:  # the norm is that of the sum, so the sum comes first
                np.add(grads, other, out=grads)
            others = []
        blocks = optimizer.begin_step(params, grads)
        if not self._scratch:
            self._scratch = [optimizer.scratch() for _ in range(self._crew.n_workers)]
        if self._crew.n_workers == 1 or len(blocks) == 1:
            finite = self._update_blocks(blocks, others, learning_rate, self._scratch[0])
        else:
            results = [False] * self._crew.n_workers

            def work(worker: int) -> None:
                start, stop = shard_bounds(len(blocks), self._crew.n_workers)[worker]
                results[worker] = self._update_blocks(
                    blocks[start:stop], others, learning_rate, self._scratch[worker]
                )

            self._crew.run(work)
            finite = all(results)
        optimizer.end_step()
        return finite

    def _update_blocks(
        self,
        blocks: Sequence[Block],
        others: Sequence[Array],
        learning_rate: float,
        scratch: Array,
    ) -> bool:
        update = self.optimizer.update
        finite = True
        for block in blocks:
            for other in others:
                np.add(block.grads, other[block.slice], out=block.grads)
            update(block, learning_rate, scratch)
            # While the block is in the cache; a square that overflows has diverged as well.
            finite = finite and math.isfinite(block.params.dot(block.params))
        return finite

    def _merge_buffers(self, n_rows: int, n_shards: int) -> None:
        """Make the running statistics of all replicas the mean of theirs, weighted by rows."""
        merged = self.model.buffers
        merged[:] = 0
        for replica, (start, stop) in zip(
            self.replicas, shard_bounds(n_rows, n_shards), strict=False
        ):
            merged += (stop - start) / n_rows * replica.buffers
        self.share_buffers()


def automatic_threads(model: Sequential, batch_size: int) -> tuple[int, int]:
    """Return (shards, BLAS threads) for a model and a batch size on this machine's cores."""
    return 1, 1


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]
