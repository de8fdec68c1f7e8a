"""One training step over the shards of a batch, whose gradients are added in a fixed tree.

A shard is a part of the batch with consecutive rows. The number of shards fixes the arithmetic of
a step; who computes a shard changes no bit. Several cores within a process are the business of
`minidl.kernels`, whose threads share the work of each shard.
"""

from __future__ import annotations

import math
import os

import numpy as np

from minidl.blas import usable_cores
from minidl.data.batches import Rows
from minidl.kernels import Array
from minidl.layers.layer import Layer
from minidl.losses import Loss
from minidl.model import Sequential, walk
from minidl.optimizers import Optimizer

THREADS_PAY = 1_000_000  # parameters times rows of a step: shorter products are not worth sharing


class TreeSum:
    """The sum of arrays that are given one after the other, added in a fixed binary tree.

    ((0 + 1) + (2 + 3)) + (4 + 5): neighbours first, then their sums. So the sum of an aligned block
    of 2**k arrays is a partial sum of the whole. Holds one array for each level of the tree.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, Array]] = []  # (level, partial sum), the largest first
        self._free: list[Array] = []

    def add(self, array: Array, level: int = 0) -> None:
        """Add the next array, the sum of 2**level; it is copied."""
        own = self._free.pop() if self._free else np.empty_like(array)
        own[...] = array
        while self._levels and self._levels[-1][0] == level:
            own, level = self._join(own), level + 1
        self._levels.append((level, own))

    def take(self) -> Array:
        """Return the sum of all arrays since the last call, good until the next `add`."""
        _, total = self._levels.pop()
        while self._levels:
            total = self._join(total)
        self._free.append(total)
        return total

    def _join(self, right: Array) -> Array:
        _, left = self._levels.pop()
        self._free.append(right)
        return np.add(left, right, out=left)


class BatchStep:
    """Makes training steps of a model: forward, loss, backward, update.

    shards: parts of a batch; one shard is the whole batch. The parts run one after another.
    l2: strength of an L2 penalty in the loss; it is divided by the total weight of the batch.
    """

    def __init__(
        self,
        model: Sequential,
        loss_function: Loss,
        optimizer: Optimizer,
        *,
        shards: int = 1,
        l2: float = 0.0,
    ) -> None:
        self.model, self.loss_function, self.optimizer = model, loss_function, optimizer
        self.shards, self.l2 = shards, l2
        self._draws_noise = any(
            type(layer).begin_step is not Layer.begin_step for layer in walk(model.layers)
        )
        self._buffers = model.buffers.copy()  # the running statistics before the step
        self._gradients, self._scalars = TreeSum(), TreeSum()

    def __call__(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        """Make one step; return the loss before it, and whether all parameters are finite after.

        Nothing is changed where the loss is not finite.
        """
        model, n_shards = self.model, self.shards
        if self._buffers.size:
            self._buffers[:] = model.buffers
        if n_shards > 1:  # batch normalization needs two rows
            n_shards = max(1, min(n_shards, batch.X.shape[0] // 2))
        if n_shards == 1:
            loss = self._differentiate(batch, 0, None, step)
        else:
            loss = self._differentiate_shards(batch, n_shards, step)
        if not math.isfinite(loss):
            model.buffers[:] = self._buffers
            return loss, True
        if self.l2 and (total := self.loss_function.total_weight(batch.y, batch.sample_weight)):
            loss += model.add_l2(self.l2 / total)
        return loss, self.optimizer.step(model.params, model.grads, learning_rate)

    def _differentiate(
        self, rows: Rows, first_row: int, total_weight: float | None, step: int
    ) -> float:
        """Fill `model.grads` with the gradient of some rows of a batch; return their loss."""
        if self._draws_noise:
            self.model.begin_step(step, first_row)
        outputs = self.model.forward(rows.X)
        loss, d_outputs = self.loss_function(outputs, rows.y, rows.sample_weight, total_weight)
        self.model.backward(d_outputs)
        return loss

    def _differentiate_shards(self, batch: Rows, n_shards: int, step: int) -> float:
        """The same for the whole batch, as the sum over its shards.

        The running statistics become the mean of those that each shard leaves, weighted by rows.
        """
        model, n_rows = self.model, batch.X.shape[0]
        total_weight = self.loss_function.total_weight(batch.y, batch.sample_weight)
        for start, stop in shard_bounds(n_rows, n_shards):
            model.buffers[:] = self._buffers
            rows = batch.select(slice(start, stop))
            loss = self._differentiate(rows, start, total_weight, step)
            share = (stop - start) / n_rows
            self._gradients.add(model.grads)
            self._scalars.add(np.concatenate([[loss], share * model.buffers.astype(np.float64)]))
        model.grads[:] = self._gradients.take()
        scalars = self._scalars.take()
        model.buffers[:] = scalars[1:]
        return float(scalars[0])


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
