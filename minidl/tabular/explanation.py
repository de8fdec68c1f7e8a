"""Which columns a prediction comes from: integrated gradients along a straight path of inputs.

The attribution of input j is (x_j - m_j) * (mean of the gradient by input j between m and x), where
m is the mean of the training inputs. Those of all inputs add up to f(x) - f(m).
Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl import blas, kernels
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.model import Sequential
from minidl.tabular.members import unpack

NODES = (12, 32, 96, 288)  # of Gauss and Legendre's quadrature; more for rows that need them
CLOSE = 5e-5  # of the sum to the difference of the outputs, in units of the model's
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Explanation:
    """What each column adds to an output.

    values: (n_samples, n_columns), in the order of `columns`.  base: the output for the mean of the
    training inputs, (n_samples,).  outputs: (n_samples,); base + values.sum(axis=1), to 1e-4; for a
    regression to 1e-4 standard deviations of y.
    """

    values: Array
    base: Array
    outputs: Array
    columns: tuple[str, ...]


def integrated_gradients(
    model: Sequential, n_members: int, inputs: Array, mean: Array, weights: Array
) -> tuple[Array, Array, Array]:
    """Return the attributions of the inputs, the outputs at the mean, and the outputs.

    The output of row i is the sum of the model's outputs times weights[i].
    model: what `members.pack` returns.  inputs: (n_samples, n_in).  mean: (n_in,).
    weights: (n_samples, n_outputs).
    """
    first, members = model.layers[0], unpack(model, n_members)
    assert isinstance(first, Linear)
    mean, attributions = mean.astype(np.float32), np.empty(inputs.shape)
    outputs = np.einsum("ij,ij->i", predict_outputs(model, inputs), weights)
    base = weights @ predict_outputs(model, mean[None])[0]
    origin = mean @ first.W + first.b
    with kernels.threads(blas.automatic_threads(model.params.size * ROWS_AT_ONCE)):
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            difference, w = inputs[part] - mean, weights[part].astype(np.float32)
            h = difference @ first.W  # what the first layer gives lies on a straight line, too
            gradient, left = np.zeros(h.shape), np.arange(len(h))
            for n_nodes in NODES:
                gradient[left] = _mean_gradient(members, origin, h[left], w[left], n_nodes)
                gap = np.einsum("ij,ij->i", gradient, h) - (outputs[part] - base[part])
                left = np.flatnonzero(np.abs(gap) > CLOSE * np.abs(w).max(axis=1))
                if not left.size:
                    break
            attributions[part] = gradient.astype(np.float32) @ first.W.T * difference
    return attributions, base, outputs


def _mean_gradient(
    members: Sequence[Sequential], origin: Array, h: Array, weights: Array, n_nodes: int
) -> Array:
    """The mean gradient of the outputs by what the first layer gives, from origin to origin + h."""
    places, shares = np.polynomial.legendre.leggauss(n_nodes)
    gradient = np.zeros(h.shape)
    for place, share in zip((places + 1) / 2, shares / 2, strict=True):
        point = np.split(origin + np.float32(place) * h, len(members), axis=1)
        for m, x, total in zip(members, point, np.split(gradient, len(members), 1), strict=True):
            m.forward(x)
            dy: Array | None = weights
            for layer in reversed(m.layers):  # as `backward`, without the gradients of the weights
                assert dy is not None
                if isinstance(layer, Linear):
                    dx = np.empty((len(dy), layer.n_in), dy.dtype)
                    dy = kernels.matmul(dy, layer.W.T, dx)
                else:
                    dy = layer.backward(dy)
            total += share * dy
    return gradient
