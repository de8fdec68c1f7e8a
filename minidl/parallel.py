"""One training step over the shards of a batch, on as many threads as there are workers.

The arithmetic is fixed by the number of shards: their gradients are summed in order, and nothing
depends on which thread ran which shard or updated which block.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # the library then runs with whatever threads BLAS was started with
    ThreadpoolController = None

from minidl.data.batches import Rows
from minidl.layers import Linear
from minidl.layers.layer import Layer, Scratch
from minidl.losses import Head
from minidl.model import Sequential, walk
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


class ShardScratch(Scratch):
    """Scratch of one shard that lies in rows of arrays for the whole batch.

    So what the shards leave in it, one after the other, is one array without copying.
    """

    def __init__(self, whole: Scratch, place: ShardPlace) -> None:
        super().__init__()
        self._whole, self._place = whole, place

    def array(self, key: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return this shard's rows of the array for the whole batch."""
        n_rows, start = self._place.n_rows, self._place.start
        whole = self._whole.array(key, (n_rows, *shape[1:]), dtype)
        return whole[start : start + shape[0]]


@dataclass
class ShardPlace:
    """Which rows of how many a shard has in the present batch."""

    n_rows: int = 0
    start: int = 0


@dataclass(frozen=True)
class Product:
    """A gradient dW = x.T @ dy over the rows of all shards, to be formed in parts of its rows."""

    x: Array
    dy: Array
    dW: Array

    def form(self, part: tuple[int, int]) -> None:
        """Form the rows from part[0] to part[1] of dW."""
        rows = slice(*part)
        np.matmul(self.x[:, rows].T, self.dy, out=self.dW[rows])


class Stepper:
    """Runs training steps of a model: forward, loss, backward, update.

    The batch is cut into `shards` parts of consecutive rows, each run by a replica of the model:
    forward, loss and backward. The large part of the gradient, dW of the linear layers, is left to
    a second round, in which each part forms some rows of each dW from the rows of the whole batch
    and updates these weights while they are in the cache: no gradient is formed twice and summed,
    and nothing waits but twice a step. The rest, a few vectors, is summed over the shards.

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
        self.grads = self.replicas[0].grads
        self._noisy = any(
            type(layer).begin_step is not Layer.begin_step for layer in walk(model.layers)
        )
        self._crew = Crew(min(shards, workers or shards))
        self._scratch: list[Array] = []
        if shards == 1:
            self.replicas[0].lend_scratch()
        else:
            self._prepare_shards(shards)

    def step(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        """Make one step; return the loss before it, and whether all parameters are finite after.

        Nothing is changed when the loss is not finite.
        """
        if len(self.replicas) > 1:
            return self._sharded_step(batch, learning_rate, step)
        loss = self._gradients(self.replicas[0], batch, 0, None, step)
        if not math.isfinite(loss):
            return loss, True
        loss += self._penalty(batch)
        if self.model.buffers.size:
            self.model.buffers[:] = self.replicas[0].buffers
        optimizer = self.optimizer
        blocks = optimizer.begin_step(self.model.params, self.grads)
        finite = self._update(blocks, learning_rate, 0)
        optimizer.end_step()
        return loss, finite

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
        loss, d_outputs = self.head(outputs, batch.y, batch.sample_weight, total_weight)
        if math.isfinite(loss):
            replica.backward(d_outputs)
        return loss

    def _penalty(self, batch: Rows) -> float:
        """Add the gradient of the L2 penalty, if there is one, and return the penalty."""
        if not self.l2:
            return 0.0
        total = self.head.total_weight(batch.y, batch.sample_weight)
        return self.replicas[0].add_l2(self.l2 / total) if total else 0.0

    def _update(self, blocks: Sequence[Block], learning_rate: float, worker: int) -> bool:
        """Update the blocks; return whether all their parameters are finite."""
        while len(self._scratch) <= worker:
            self._scratch.append(self.optimizer.scratch())
        update, scratch = self.optimizer.update, self._scratch[worker]
        finite = True
        for block in blocks:
            finite = update(block, learning_rate, scratch) and finite
        return finite

    # What follows is for two shards and more.

    def _prepare_shards(self, shards: int) -> None:
        """Lend the replicas scratch, and cut the weights into parts, one for each shard."""
        self._places = [ShardPlace() for _ in range(shards)]
        wholes = [Scratch() for _ in walk(self.model.layers)]
        for replica, place in zip(self.replicas, self._places, strict=True):
            replica.lend_scratch(lambda i, place=place: ShardScratch(wholes[i], place))  # type: ignore[misc]
        self._linears = [
            [layer for layer in walk(replica.layers) if isinstance(layer, Linear)]
            for replica in self.replicas
        ]
        for linear in (layer for linears in self._linears for layer in linears):
            linear.postpones = True
        self._row_parts = [shard_bounds(layer.n_in, shards) for layer in self._linears[0]]
        places = [_position(layer.dW, self.grads) for layer in self._linears[0]]
        # For each part the slices of the vector that it forms and updates by itself.
        self._own = [
            [
                (at + part[0] * layer.n_out, at + part[1] * layer.n_out)
                for layer, at, part in zip(
                    self._linears[0], places, (parts[i] for parts in self._row_parts), strict=True
                )
            ]
            for i in range(shards)
        ]
        self._cuts = sorted({end for own in self._own for piece in own for end in piece})

    def _sharded_step(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        n_rows, crew = batch.X.shape[0], self._crew
        n_shards = max(1, min(len(self.replicas), n_rows // 2))  # batch norm needs two rows
        bounds = shard_bounds(n_rows, n_shards)
        total_weight = self.head.total_weight(batch.y, batch.sample_weight)
        losses = [0.0] * n_shards

        def run_shards(worker: int) -> None:
            for i in range(worker, n_shards, crew.n_workers):
                start, stop = bounds[i]
                self._places[i].n_rows, self._places[i].start = n_rows, start
                rows = batch.select(slice(start, stop))
                losses[i] = self._gradients(self.replicas[i], rows, start, total_weight, step)

        crew.run(run_shards)
        loss = sum(losses)
        if not math.isfinite(loss):
            return loss, True
        if self.model.buffers.size:
            self._merge_buffers(bounds)
        products = self._products(batch, n_shards)
        optimizer, params = self.optimizer, self.model.params
        n_parts = len(self.replicas)
        formed_first = bool(self.l2) or optimizer.clip_grad_norm is not None
        if formed_first:  # what needs the whole gradient before the first update

            def form(worker: int) -> None:
                for part in range(worker, n_parts, crew.n_workers):
                    self._form(products, part)

            crew.run(form)
        self._sum_rest(n_shards, products)
        loss += self._penalty(batch)
        blocks = self._blocks_of_parts(optimizer.begin_step(params, self.grads, self._cuts))
        finite = [True] * n_parts

        def update(worker: int) -> None:
            for part in range(worker, n_parts, crew.n_workers):
                if not formed_first:
                    self._form(products, part)
                finite[part] = self._update(blocks[part], learning_rate, worker)

        crew.run(update)
        optimizer.end_step()
        return loss, all(finite)

    def _products(self, batch: Rows, n_shards: int) -> list[Product | None]:
        """The postponed products; None for a layer that formed its own, on sparse rows."""
        products: list[Product | None] = []
        for linears in zip(*self._linears[:n_shards], strict=True):
            saved = [layer.postponed for layer in linears]
            for layer in linears:
                layer.postponed = None
            if saved[0] is None:
                products.append(None)
                continue
            x, dy = (_stacked([pair[k] for pair in saved if pair], batch.X) for k in range(2))
            products.append(Product(x, dy, linears[0].dW))
        return products

    def _form(self, products: Sequence[Product | None], part: int) -> None:
        for product, parts in zip(products, self._row_parts, strict=True):
            if product is not None:
                product.form(parts[part])

    def _sum_rest(self, n_shards: int, products: Sequence[Product | None]) -> None:
        """Add up, in order, what the shards have of the gradient beside the postponed products."""
        formed = [
            (own[i][0], self._own[-1][i][1])
            for own in self._own[:1]
            for i, product in enumerate(products)
            if product is not None
        ]
        for start, stop in _gaps(formed, self.grads.size):
            for replica in self.replicas[1:n_shards]:
                self.grads[start:stop] += replica.grads[start:stop]

    def _blocks_of_parts(self, blocks: list[Block]) -> list[list[Block]]:
        """The blocks that each part updates: those of its rows, and all others for the first."""
        if self._parts_of is not blocks:
            self._parts_of = blocks
            self._parts = [
                [b for b in blocks if any(a <= b.slice.start < z for a, z in own)]
                for own in self._own
            ]
            taken = {id(block) for part in self._parts for block in part}
            self._parts[0] += [block for block in blocks if id(block) not in taken]
        return self._parts

    _parts_of: list[Block] | None = None
    _parts: list[list[Block]]

    def _merge_buffers(self, bounds: Sequence[tuple[int, int]]) -> None:
        """Make the running statistics of all replicas the mean of theirs, weighted by rows."""
        merged = self.model.buffers
        merged[:] = 0
        for replica, (start, stop) in zip(self.replicas, bounds, strict=False):
            merged += (stop - start) / bounds[-1][1] * replica.buffers
        self.share_buffers()


def _stacked(parts: Sequence[Array], batch: Array) -> Array:
    """The rows of all parts as one array, which they usually lie in already."""
    whole = parts[0].base
    n_rows = sum(part.shape[0] for part in parts)
    for candidate in (whole, batch):
        if (
            isinstance(candidate, np.ndarray)
            and candidate.shape == (n_rows, parts[0].shape[1])
            and all(part.base is whole for part in parts)
            and (candidate is whole or batch is whole or batch.base is whole)
        ):
            return candidate
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _position(view: Array, vector: Array) -> int:
    """The index in `vector` at which `view` begins."""
    first, origin = (a.__array_interface__["data"][0] for a in (view, vector))
    return int((first - origin) // vector.itemsize)


def _gaps(pieces: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """What is left of (0, size) between the pieces."""
    ends = [0, *(end for piece in sorted(pieces) for end in piece), size]
    return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]


def automatic_threads(model: Sequential, batch_size: int) -> tuple[int, int]:
    """Return (shards, BLAS threads) for a model and a batch size on this machine's cores."""
    return 1, 1


def shard_bounds(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of n_parts consecutive parts of n things, of nearly equal size."""
    return [(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]
