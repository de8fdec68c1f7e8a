"""One training step over the shards of a batch, on as many threads as there are workers.

The arithmetic is fixed by the number of shards: their gradients are summed in order, and nothing
depends on which thread ran which shard.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from minidl import kernels
from minidl.blas import usable_cores
from minidl.data.batches import Rows
from minidl.layers.layer import Layer
from minidl.losses import Loss
from minidl.model import Sequential, walk
from minidl.optimizers import Optimizer

THREADS_PAY = 1_000_000  # parameters times rows of a step: shorter products are not worth sharing


class Crew:
    """Runs one function for each of n workers: the caller is worker 0, threads are the others.

    An error in any worker is raised in the caller once all are done.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        # The threads are as silent about overflow as the caller is: what comes of it is checked.
        self._pool = None
        if n_workers > 1:
            self._pool = ThreadPoolExecutor(
                n_workers - 1, initializer=np.seterr, initargs=("ignore",)
            )

    def run(self, task: Callable[[int], None]) -> None:
        """Call task(0), ..., task(n_workers - 1) at the same time, and wait for all."""
        if self._pool is None:
            task(0)
            return
        theirs = kernels.inherited(task)
        others = [self._pool.submit(theirs, worker) for worker in range(1, self.n_workers)]
        try:
            task(0)
        finally:
            wait(others)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class Stepper:
    """Runs training steps of a model: forward, loss, backward, update.

    The batch is cut into `shards` parts of consecutive rows, each run by a replica of the model.
    With `l2` the loss gains an L2 penalty of strength l2 / total weight of the batch.
    `model.params` change with every step, and `model.buffers` follow; nothing else of it is used.
    """

    def __init__(
        self,
        model: Sequential,
        loss_function: Loss,
        optimizer: Optimizer,
        *,
        shards: int = 1,
        workers: int | None = None,
        l2: float = 0.0,
    ) -> None:
        self.model, self.loss_function, self.optimizer, self.l2 = (
            model,
            loss_function,
            optimizer,
            l2,
        )
        self.replicas = [model.replica() for _ in range(shards)]
        for replica in self.replicas:
            replica.lend_scratch()
            replica.fuse()
        self._noisy = any(
            type(layer).begin_step is not Layer.begin_step for layer in walk(model.layers)
        )
        self._has_buffers = model.buffers.size > 0
        self._crew = Crew(min(shards, workers or shards))

    def step(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        """Make one step; return the loss before it, and whether all parameters are finite after.

        Nothing is changed when the loss is not finite.
        """
        grads = self.replicas[0].grads
        n_rows, n_shards = batch.X.shape[0], len(self.replicas)
        if n_shards > 1:
            n_shards = max(1, min(n_shards, n_rows // 2))  # batch norm needs two rows
        if n_shards == 1:
            loss = self._gradients(self.replicas[0], batch, 0, None, step)
        else:
            loss = self._sharded_gradients(batch, n_shards, step)
        if not math.isfinite(loss):
            return loss, True
        for i in range(1, n_shards):
            grads += self.replicas[i].grads
        if self.l2 and (total := self.loss_function.total_weight(batch.y, batch.sample_weight)):
            loss += self.replicas[0].add_l2(self.l2 / total)
        if self._has_buffers:
            self._merge_buffers(n_rows, n_shards)
        return loss, self.optimizer.step(self.model.params, grads, learning_rate)

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
        if self._noisy:
            replica.begin_step(step, first_row)
        outputs = replica.forward(batch.X)
        loss, d_outputs = self.loss_function(outputs, batch.y, batch.sample_weight, total_weight)
        replica.backward(d_outputs)
        return loss

    def _sharded_gradients(self, batch: Rows, n_shards: int, step: int) -> float:
        total_weight = self.loss_function.total_weight(batch.y, batch.sample_weight)
        bounds = shard_bounds(batch.X.shape[0], n_shards)
        losses = [0.0] * n_shards

        def work(worker: int) -> None:
            for i in range(worker, n_shards, self._crew.n_workers):
                start, stop = bounds[i]
                rows = batch.select(slice(start, stop))
                losses[i] = self._gradients(self.replicas[i], rows, start, total_weight, step)

        self._crew.run(work)
        return sum(losses)

    def _merge_buffers(self, n_rows: int, n_shards: int) -> None:
        """Make the running statistics of all replicas the mean of theirs, weighted by rows."""
        bounds = shard_bounds(n_rows, n_shards)
        merged = self.model.buffers
        merged[:] = 0
        for replica, (start, stop) in zip(self.replicas, bounds, strict=False):
            merged += (stop - start) / n_rows * replica.buffers
        self.share_buffers()


def automatic_threads(model: Sequential, batch_size: int) -> tuple[int, int]:
    """Return (shards, BLAS threads) for a model and a batch size on this machine's cores.

    No more threads than OMP_NUM_THREADS says: joblib sets it in the workers of a search, so that
    they share the cores.
    """
    if model.params.size * batch_size < THREADS_PAY:
        return 1, 1
    cores = usable_cores()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return 1, min(cores, max(1, int(limit))) if limit.isdecimal() else cores


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]
