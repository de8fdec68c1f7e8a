"""One training step over the shards of a batch, whose gradients are added in a fixed tree.

A shard is a part of the batch with consecutive rows. The number of shards fixes the arithmetic of
a step; who computes a shard changes no bit. Several cores within a process are the business of
`minidl.kernels`, whose threads share the work of each shard.
"""

import math
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from minidl import kernels
from minidl.data.batches import Rows
from minidl.kernels import Array, Replay
from minidl.layers import Identity, Layer, Linear, ReLU, Sigmoid, SiLU, Tanh
from minidl.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.model import Sequential, walk
from minidl.optimizers import Optimizer
from minidl.ranks import Ranks, block_size, half_of, shard_bounds

# Whose steps are kernels alone, for dense arrays.
KERNELS_ALONE = {Sequential, Linear, Identity, ReLU, Tanh, Sigmoid, SiLU}
KERNELS_ALONE |= {SoftmaxCrossEntropy, SigmoidCrossEntropy}


class Differentiation:
    """Fills `model.grads` with the gradient of the loss for some rows.

    When a batch of so many rows comes for the second time and kernels do all of the work, they are
    recorded and then repeated for each such batch: one call into C, with the same bits, that takes
    a third less time on a net of 64-32-10. The model's arrays stay the same within an epoch, and so
    does what Python decides.
    """

    def __init__(self, model: Sequential, loss_function: Loss) -> None:
        self.model, self.loss_function = model, loss_function
        self._draws_noise = any(
            type(layer).begin_step is not Layer.begin_step for layer in walk(model.layers)
        )
        self._may_record = False
        self._grads, self._held = model.grads, list[Any]()
        self._replays: dict[int, Replay | None] = {}  # by number of rows; None: there was one batch

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other arrays.
        return {**self.__dict__, "_grads": None, "_held": [], "_replays": {}}

    def begin_epoch(self) -> None:
        """Forget what is recorded, unless the parts still hold what they did an epoch before."""
        parts = (self.model, self.loss_function, *walk(self.model.layers))
        held: list[Any] = [type(part) for part in parts]
        held += [each for part in parts for each in vars(part).values() if each is not None]
        if len(held) != len(self._held) or not all(map(is_, held, self._held)):
            self._replays = {}
            self._may_record = all(
                type(part) in KERNELS_ALONE and not {"forward", "backward"} & vars(part).keys()
                for part in parts
            )
        self._grads, self._held = self.model.grads, held

    def whole(self, batch: Rows, step: int = 0, total_weight: float | None = None) -> float:
        """Return the loss of a whole batch.  total_weight: the same one in each call."""
        n_rows = len(batch.y)
        replay = self._replays.get(n_rows)
        if replay and batch.sample_weight is None and self._grads is self.model.grads:
            loss = replay(batch.X, batch.y)
            if loss is not None:
                return loss
        ordinary = partial(self.part, batch, 0, total_weight, step)
        if n_rows not in self._replays or replay or not self._may_record:
            self._replays.setdefault(n_rows, None)
            return ordinary()
        loss, self._replays[n_rows] = kernels.record(ordinary, batch.X, batch.y)
        self._may_record = self._replays[n_rows] is not None
        return loss

    def part(
        self, rows: Rows, first_row: int = 0, total_weight: float | None = None, step: int = 0
    ) -> float:
        """Return the loss of some rows of a batch, from `first_row` on, of the step."""
        kernels.hold_threads()
        if self._draws_noise:
            self.model.begin_step(step, first_row)
        outputs = self.model.forward(rows.X)
        loss, d_outputs = self.loss_function(outputs, rows.y, rows.sample_weight, total_weight)
        self.model.backward(d_outputs)
        return loss


class BatchStep:
    """Makes training steps of a model: forward, loss, backward, update.

    shards: parts of a batch; one shard is the whole batch. The parts run one after another.
    ranks: the processes that share the parts, where there are several.
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
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.loss_function, self.optimizer = model, loss_function, optimizer
        self.shards, self.l2, self.ranks = shards, l2, ranks
        self.differentiation = Differentiation(model, loss_function)
        self._buffers = model.buffers.copy()  # the running statistics before the step
        self._lefts: dict[int, tuple[Array, Array]] = {}  # sums that wait for their right halves
        self._lent = ranks is None  # whether the gradients are where other ranks see them

    def __call__(self, batch: Rows, learning_rate: float, step: int) -> tuple[float, bool]:
        """Make one step; return the loss before it, and whether the model is finite after it.

        batch: in a job of several ranks X may be only the rows of `own_rows`.
        Nothing is changed where the loss is not finite.
        """
        model, n_shards = self.model, self._n_shards(len(batch.y))
        if self._buffers.size:
            self._buffers[:] = model.buffers
        if n_shards == 1 and self.ranks is None:
            loss = self.differentiation.whole(batch, step)
        else:
            loss = self._differentiate_shards(batch, n_shards, step)
        if not math.isfinite(loss):
            model.buffers[:] = self._buffers
            return loss, True
        if self.l2 and (total := self.loss_function.total_weight(batch.y, batch.sample_weight)):
            loss += model.add_l2(self.l2 / total)
        finite = self.optimizer.step(model, learning_rate=learning_rate)
        return loss, finite and (not self._buffers.size or bool(np.isfinite(model.buffers).all()))

    def own_rows(self, n_rows: int) -> slice:
        """The rows of a batch that this process computes; the first one where there are none."""
        own = self._own_shards(n_rows, self._n_shards(n_rows))
        return slice(own[0][0], own[-1][1]) if own else slice(0, 1)

    def _n_shards(self, n_rows: int) -> int:
        """As many as asked for; fewer in a small batch: batch normalization needs two rows."""
        return max(1, min(self.shards, n_rows // 2))

    def _own_shards(self, n_rows: int, n_shards: int) -> list[tuple[int, int]]:
        bounds = shard_bounds(n_rows, n_shards)
        return bounds if self.ranks is None else bounds[self.ranks.block(self.shards)]

    def _differentiate_shards(self, batch: Rows, n_shards: int, step: int) -> float:
        """Fill `model.grads` for the whole batch, as the sum over its shards; return the loss.

        The running statistics become the mean of those that each shard leaves, weighted by rows.
        """
        model, n_rows = self.model, len(batch.y)
        if self.ranks is not None and not self._lent:
            model.place_gradients(self.ranks.lend(model.grads))
            self._lent = True
        own = self._own_shards(n_rows, n_shards)
        first = 0 if batch.X.shape[0] == n_rows or not own else own[0][0]
        total = self.loss_function.total_weight(batch.y, batch.sample_weight)
        scalars = np.zeros(1 + model.buffers.size)

        def add_up(shards: list[tuple[int, int]], level: int = 0) -> None:
            """Fill `model.grads` and `scalars` with the sums over these shards."""
            half = half_of(len(shards))
            if half:
                add_up(shards[:half], level + 1)
                if level not in self._lefts:
                    self._lefts[level] = np.empty_like(model.grads), np.empty_like(scalars)
                lefts = self._lefts[level]
                lefts[0][:], lefts[1][:] = model.grads, scalars
                add_up(shards[half:], level + 1)
                np.add(lefts[0], model.grads, out=model.grads)
                np.add(lefts[1], scalars, out=scalars)
                return
            (part,) = (slice(*bounds) for bounds in shards)
            model.buffers[:] = self._buffers
            weight = None if batch.sample_weight is None else batch.sample_weight[part]
            X = batch.X[part.start - first : part.stop - first]
            rows = Rows(X, batch.y[part], weight)
            scalars[0] = self.differentiation.part(rows, part.start, total, step)
            scalars[1:] = model.buffers
            scalars[1:] *= (part.stop - part.start) / n_rows

        if own:
            add_up(own)
        if self.ranks is not None:
            n_active = -(-n_shards // block_size(self.shards, self.ranks.size))
            self.ranks.add_up(model.grads, scalars, n_active)
        model.buffers[:] = scalars[1:]
        return float(scalars[0])
