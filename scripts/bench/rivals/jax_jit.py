"""JAX: the whole step compiled, with the gather, and parameters and velocities donated.

With the argument `scan` all steps of an epoch are one compiled call. No Python runs between them,
so no loss can be read and nothing saved or stopped before the epoch is over.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.cells import Problem
from bench.child import main


def outputs(params: Any, x: Any) -> Any:
    """Return the logits."""
    *hidden, (W_last, b_last) = params
    for W, b in hidden:
        x = jax.nn.relu(x @ W + b)
    return x @ W_last + b_last


def mean_loss(params: Any, x: Any, y: Any, smoothing: float) -> Any:
    """Return the mean cross-entropy, for labels that are smoothed."""
    log_p = jax.nn.log_softmax(outputs(params, x))
    loss = -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()
    return (1 - smoothing) * loss - smoothing * log_p.mean() if smoothing else loss


def prepare(problem: Problem, way: str = "") -> Any:
    """Put the data on the device; the first step of each length compiles."""
    data = jnp.asarray(problem.X), jnp.asarray(problem.y.astype(np.int32))
    params = [(jnp.asarray(W), jnp.zeros(W.shape[1])) for W in problem.weights]
    state = (params, jax.tree.map(jnp.zeros_like, params))
    rng, momentum = np.random.default_rng(0), problem.momentum

    def step(state: Any, X: Any, y: Any, rows: Any, rate: Any) -> Any:
        params, velocity = state
        loss, grads = jax.value_and_grad(mean_loss)(
            params, X[rows], y[rows], problem.label_smoothing
        )
        if problem.weight_decay:
            grads = jax.tree.map(lambda g, p: g + problem.weight_decay * p, grads, params)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        update = velocity
        if problem.nesterov:
            update = jax.tree.map(lambda g, v: g + momentum * v, grads, velocity)
        params = jax.tree.map(lambda p, u: p - rate * u, params, update)
        return (params, velocity), loss

    @partial(jax.jit, donate_argnums=0)
    def one(state: Any, X: Any, y: Any, batches: Any, rates: Any, i: Any) -> Any:
        return step(state, X, y, batches[i], rates[i])

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, X: Any, y: Any, batches: Any, rates: Any) -> Any:
        return jax.lax.scan(lambda s, now: step(s, X, y, *now), state, (batches, rates))

    def run(rates: list[float]) -> None:
        nonlocal state  # the losses are not fetched
        order = rng.permutation(len(problem.X)).astype(np.int32)
        batches = order[: len(rates) * problem.batch_size].reshape(-1, problem.batch_size)
        plan = jnp.asarray(batches), jnp.asarray(rates, jnp.float32)
        if way == "scan":
            state, _ = epoch(state, *data, *plan)
        else:
            for i in range(len(rates)):
                state, _ = one(state, *data, *plan, i)
        jax.block_until_ready(state)

    compiled = jax.jit(outputs)
    settings = {"blas": "Eigen in XLA, compiled for this processor"}
    return run, lambda x: compiled(state[0], jnp.asarray(x)), settings


if __name__ == "__main__":
    main(prepare)
