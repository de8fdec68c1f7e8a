"""Which columns a prediction comes from: integrated gradients along a straight path of inputs.

The attribution of input j is (x_j - m_j) * (mean of the gradient by input j between m and x), where
m is the mean of the training inputs. Those of all inputs add up to f(x) - f(m).
Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl.kernels import Array
from minidl.model import Sequential

NODES = (6, 12, 24, 48)  # of Gauss and Legendre's quadrature; more for rows that need them
CLOSE = 5e-5  # of the sum to the difference of the outputs
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Explanation:
    """What each column adds to an output.

    values: (n_samples, n_columns), in the order of `columns`.  base: the output for the mean of the
    training inputs, (n_samples,).  outputs: (n_samples,); base + values.sum(axis=1), to 1e-4 of
    their size.
    """

    values: Array
    base: Array
    outputs: Array
    columns: tuple[str, ...]


def integrated_gradients(
    members: Sequence[Sequential], inputs: Array, mean: Array, weights: Array
) -> tuple[Array, Array, Array]:
    """Return the attributions of the inputs, the outputs at the mean, and the outputs.

    The output of row i is the mean over the members of their outputs times weights[i].
    inputs: (n_samples, n_in).  mean: (n_in,).  weights: (n_samples, n_outputs).
    """
    attributions = np.zeros(inputs.shape)
    base, outputs = np.zeros(len(inputs)), np.zeros(len(inputs))
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        x, w = inputs[part], weights[part]
        base[part] = _outputs(members, np.broadcast_to(mean, x.shape), w)
        outputs[part] = _outputs(members, x, w)
        left = np.arange(len(x))
        for n_nodes in NODES:
            found = _integral(members, x[left], mean, w[left], n_nodes)
            attributions[start + left] = found
            gap = found.sum(axis=1) - (outputs - base)[start + left]
            size = 1 + np.abs(outputs - base)[start + left]
            left = left[np.abs(gap) > CLOSE * size]
            if not left.size:
                break
    return attributions, base, outputs


def _outputs(members: Sequence[Sequential], x: Array, weights: Array) -> Array:
    mean = np.mean([m.forward(np.ascontiguousarray(x), train=False) for m in members], axis=0)
    found: Array = np.einsum("ij,ij->i", mean.astype(np.float64), weights)
    return found


def _integral(
    members: Sequence[Sequential], x: Array, mean: Array, weights: Array, n_nodes: int
) -> Array:
    places, shares = np.polynomial.legendre.leggauss(n_nodes)
    difference = x - mean
    gradient = np.zeros(x.shape)
    dy = (weights / len(members)).astype(x.dtype)
    for place, share in zip((places + 1) / 2, shares / 2, strict=True):
        point = (mean + place * difference).astype(x.dtype)
        for member in members:
            member.forward(point)
            dx = member.backward(dy, need_dx=True)
            gradient += share * dx
    attributions: Array = gradient * difference
    return attributions
