"""JAX: the whole step compiled, with the gather, and parameters and velocities donated.

With the argument `scan` all steps of an epoch are one compiled call. No Python runs between them,
so no loss can be read and nothing saved or stopped before the epoch is over.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.cells import Problem
from bench.child import main
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


class Jax:
    """One compiled call a step, or with `scan` one an epoch."""

    race_epochs = 3

    def __init__(self, scan: bool) -> None:
        self._scan = scan

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Put the data on the device; the first step of each length compiles."""
        self._problem, self._n_steps = problem, 0
        self._X, self._y = jnp.asarray(problem.X), jnp.asarray(problem.y.astype(np.int32))
        params = [(jnp.asarray(W), jnp.zeros(W.shape[1])) for W in problem.weights]
        self._state = (params, jax.tree.map(jnp.zeros_like, params))
        self._rng = np.random.default_rng(0)
        momentum = problem.momentum

        def step(state: Any, X: Any, y: Any, rows: Any, rate: Any) -> tuple[Any, Any]:
            params, velocity = state
            loss, grads = jax.value_and_grad(mean_loss)(params, X[rows], y[rows])
            velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
            update = velocity
            if problem.nesterov:
                update = jax.tree.map(lambda g, v: g + momentum * v, grads, velocity)
            params = jax.tree.map(lambda p, u: p - rate * u, params, update)
            return (params, velocity), loss

        def one(state: Any, X: Any, y: Any, batches: Any, rates: Any, i: Any) -> tuple[Any, Any]:
            return step(state, X, y, batches[i], rates[i])

        def epoch(state: Any, X: Any, y: Any, batches: Any, rates: Any) -> tuple[Any, Any]:
            return jax.lax.scan(lambda s, now: step(s, X, y, *now), state, (batches, rates))

        self._step = jax.jit(one, donate_argnums=0)
        self._epoch = jax.jit(epoch, donate_argnums=0)
        self._outputs = jax.jit(outputs)
        return {"blas": "Eigen in XLA, compiled for this processor"}

    def run(self, n_batches: int) -> None:
        """Train so many batches, and wait for the last; the losses are not fetched."""
        size = self._problem.batch_size
        order = self._rng.permutation(len(self._X)).astype(np.int32)
        batches = jnp.asarray(order[: n_batches * size].reshape(-1, size))
        rates = jnp.asarray(self._problem.rates(self._n_steps, n_batches), jnp.float32)
        self._n_steps += n_batches
        data = (self._X, self._y, batches, rates)
        if self._scan:
            self._state, _ = self._epoch(self._state, *data)
        else:
            for i in range(n_batches):
                self._state, _ = self._step(self._state, *data, i)
        jax.block_until_ready(self._state)

    def outputs(self, x: Array) -> Any:
        """Return the logits."""
        return self._outputs(self._state[0], jnp.asarray(x))


if __name__ == "__main__":
    main(Jax(scan="scan" in sys.argv[1:]))
