"""Where the weights of a linear layer start.

Each initializer draws a matrix of shape (n_in, n_out). The normal and uniform forms of a name have
the same variance. Sources: Glorot and Bengio 2010 (glorot); LeCun et al. 1998, Efficient BackProp
(lecun); He et al. 2015 (he); Saxe et al. 2014 (orthogonal).
"""

from collections.abc import Callable

import numpy as np

from minidl.kernels import Array

Initializer = Callable[[int, int, np.random.Generator], Array]


def _normal(variance: Callable[[int, int], float]) -> Initializer:
    def draw(n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        return rng.normal(0.0, np.sqrt(variance(n_in, n_out)), (n_in, n_out))

    return draw


def _uniform(variance: Callable[[int, int], float]) -> Initializer:
    def draw(n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        limit = np.sqrt(3.0 * variance(n_in, n_out))
        return rng.uniform(-limit, limit, (n_in, n_out))

    return draw


def _he(n_in: int, n_out: int) -> float:
    return 2.0 / n_in


def _glorot(n_in: int, n_out: int) -> float:
    return 2.0 / (n_in + n_out)


def _lecun(n_in: int, n_out: int) -> float:
    return 1.0 / n_in


def _orthogonal(n_in: int, n_out: int, rng: np.random.Generator) -> Array:
    """Orthonormal rows or columns, whichever are fewer, uniform over all such matrices."""
    q, r = np.linalg.qr(rng.normal(size=(max(n_in, n_out), min(n_in, n_out))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # without this QR's sign convention biases the draw
    return q if n_in >= n_out else q.T


def _zeros(n_in: int, n_out: int, rng: np.random.Generator) -> Array:
    return np.zeros((n_in, n_out))


INITIALIZERS: dict[str, Initializer] = {
    "he_normal": _normal(_he),
    "he_uniform": _uniform(_he),
    "glorot_normal": _normal(_glorot),
    "glorot_uniform": _uniform(_glorot),
    "lecun_normal": _normal(_lecun),
    "lecun_uniform": _uniform(_lecun),
    "orthogonal": _orthogonal,
    "zeros": _zeros,
}
