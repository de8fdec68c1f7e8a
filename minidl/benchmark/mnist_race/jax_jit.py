"""JAX: one compiled call a step; images stay bytes and are scaled in it, which costs nothing."""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPOCHS, BATCH_SIZE = 3, 128


def outputs(params: Any, images: Any, mean: Any, deviation: Any) -> Any:
    """Return the logits."""
    (W1, b1), (W2, b2) = params
    x = (images.astype(jnp.float32) - mean) / deviation
    return jax.nn.relu(x @ W1 + b1) @ W2 + b2


def mean_loss(params: Any, images: Any, y: Any, mean: Any, deviation: Any) -> Any:
    """Return the mean cross-entropy."""
    log_p = jax.nn.log_softmax(outputs(params, images, mean, deviation))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def step(
    params: Any, velocity: Any, X: Any, y: Any, scaling: Any, rows: Any, learning_rate: Any
) -> tuple[Any, Any]:
    """Return params and velocity after a step with Nesterov's momentum."""
    grads = jax.grad(mean_loss)(params, X[rows], y[rows], *scaling)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
    params = jax.tree.map(
        lambda p, g, v: p - learning_rate * (g + 0.9 * v), params, grads, velocity
    )
    return params, velocity


def share_of_right(params: Any, X: Any, y: Any, scaling: Any) -> Any:
    """Return the share of right answers."""
    return (outputs(params, X, *scaling).argmax(1) == y).mean()


def main(file: str, accuracy: float) -> None:
    """Train until the accuracy is reached."""
    with np.load(file) as mnist:
        X, y, X_test, y_test = (mnist[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    scaling = X.mean(dtype=np.float32), X.std(dtype=np.float32)
    X, X_test = jnp.asarray(X.reshape(-1, 784)), jnp.asarray(X_test.reshape(-1, 784))
    y, y_test = jnp.asarray(y.astype(np.int32)), jnp.asarray(y_test.astype(np.int32))
    rng = np.random.default_rng(0)
    params = [
        (
            jnp.asarray(gain * np.sqrt(2 / n) * rng.standard_normal((n, k), dtype=np.float32)),
            jnp.zeros(k),
        )
        for n, k, gain in ((784, 256, np.float32(1.0)), (256, 10, np.float32(0.1)))
    ]
    velocity = jax.tree.map(jnp.zeros_like, params)
    compiled_step = jax.jit(step, donate_argnums=(0, 1))
    starts = range(0, len(X), BATCH_SIZE)
    steps, done = EPOCHS * len(starts), 0
    for epoch in range(1, EPOCHS + 1):
        order = rng.permutation(len(X)).astype(np.int32)
        for start in starts:
            t = (done + 0.5) / steps
            learning_rate = 0.1 * (t / 0.2 if t < 0.2 else (1 - t) / 0.8)
            rows = order[start : start + BATCH_SIZE]
            params, velocity = compiled_step(params, velocity, X, y, scaling, rows, learning_rate)
            done += 1
        reached = float(jax.jit(share_of_right)(params, X_test, y_test, scaling))
        print(json.dumps({"epochs": epoch, "accuracy": reached}))
        if reached >= accuracy:
            break


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
