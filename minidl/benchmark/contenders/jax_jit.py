"""JAX: the whole step compiled, gather included, parameters and velocities donated.

With the argument `scan` all steps of an epoch are one compiled call: no Python runs between them,
so no loss can be looked at, nothing be saved or stopped before the epoch is over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minidl.benchmark.cells import LEARNING_RATE, MOMENTUM, Cell
from minidl.benchmark.serving import serve
from minidl.kernels import Array


def outputs(params: Any, x: Any) -> Any:
    """Return the logits."""
    *hidden, (W_last, b_last) = params
    for W, b in hidden:
        x = jax.nn.relu(x @ W + b)
    return x @ W_last + b_last


def mean_loss(params: Any, x: Any, y: Any) -> Any:
    """Return the mean cross-entropy."""
    log_p = jax.nn.log_softmax(outputs(params, x))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def step(state: Any, X: Any, y: Any, rows: Any) -> tuple[Any, Any]:
    """Return the state after one step on some rows, and the loss before it."""
    params, velocity = state
    loss, grads = jax.value_and_grad(mean_loss)(params, X[rows], y[rows])
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
    params = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity)
    return (params, velocity), loss


class Jax:
    """One compiled call a step, or with `scan` one an epoch."""

    def __init__(self, scan: bool) -> None:
        self._scan = scan

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Put the data on the device; the first step of each length compiles."""
        X, y = cell.samples()
        self._X, self._y = jnp.asarray(X), jnp.asarray(y.astype(np.int32))
        params = [(jnp.asarray(W), jnp.zeros(W.shape[1])) for W in cell.weights()]
        self._state = (params, jax.tree.map(jnp.zeros_like, params))
        self._rng = np.random.default_rng(0)
        self._batch_size = size = cell.batch_size

        def one(state: Any, X: Any, y: Any, order: Any, i: Any) -> tuple[Any, Any]:
            return step(state, X, y, jax.lax.dynamic_slice(order, (i * size,), (size,)))

        def epoch(state: Any, X: Any, y: Any, order: Any) -> tuple[Any, Any]:
            batches = order.reshape(-1, size)
            state, losses = jax.lax.scan(lambda s, rows: step(s, X, y, rows), state, batches)
            return state, losses

        self._step = jax.jit(one, donate_argnums=0)
        self._epoch = jax.jit(epoch, donate_argnums=0)
        self._outputs = jax.jit(outputs)
        return {}

    def run(self, n_batches: int) -> None:
        """Train so many batches, and wait for the last; the losses are not fetched."""
        order = self._rng.permutation(len(self._X)).astype(np.int32)
        if self._scan:
            order_there = jnp.asarray(order[: n_batches * self._batch_size])
            self._state, _ = self._epoch(self._state, self._X, self._y, order_there)
        else:
            order_there = jnp.asarray(order)
            for i in range(n_batches):
                self._state, _ = self._step(self._state, self._X, self._y, order_there, i)
        jax.block_until_ready(self._state)

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return a call of the compiled forward pass that waits for the result."""
        there = jnp.asarray(x)
        return lambda: jax.block_until_ready(self._outputs(self._state[0], there))


if __name__ == "__main__":
    serve(Jax(scan="scan" in sys.argv[1:]))
