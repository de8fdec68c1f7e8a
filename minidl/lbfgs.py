"""L-BFGS: SciPy's minimiser over the flat vector, the whole data in each step.

For small data and few weights it needs far fewer passes than stochastic steps, and no learning
rate. It needs an objective that gives the same value for the same weights, so it refuses layers
that draw noise or look at the statistics of a batch.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.optimize import OptimizeResult, minimize

from minidl import blas, kernels
from minidl.data.batches import Rows, batch_bounds
from minidl.errors import DivergenceError
from minidl.kernels import Array
from minidl.layers.layer import Layer
from minidl.losses import Loss
from minidl.model import Sequential, walk_paths
from minidl.parallel import Differentiation

SCIPYS_BLAS = blas.find(Path(scipy.__file__).parent, "linalg/_fblas.*")
CHUNK_ROWS = 512  # of the data at a time, at least: memory is bounded


def fit_lbfgs(
    model: Sequential,
    loss_function: Loss,
    train: Sequence[Any],
    *,
    weight_decay: float = 0.0,
    max_iterations: int = 200,
    max_evaluations: int = 15000,
    tolerance: float = 1e-4,
    callback: Callable[[int, float], object] | None = None,
) -> OptimizeResult:
    """Minimise the mean loss over all of `train` plus weight_decay / 2 * (sum of squared weights).

    model: changed in place; holds the last weights accepted, also when interrupted.
    train: (X, y) or (X, y, sample_weight), as for `fit`.
    tolerance: it ends when no component of the gradient is larger.
    callback: called with (iteration, loss) after each iteration.

    Returns SciPy's result: `fun`, the loss with the penalty; `nit`, iterations; `nfev`, evaluations
    of loss and gradient; `success`, whether the gradient, or the gain of the last iteration, was
    within tolerance; `status` and `message`.
    Raises ValueError for a model with dropout, batch normalization or other noise, and
    DivergenceError where the loss is not finite at the start.
    Liu and Nocedal, On the Limited Memory BFGS Method, 1989; SciPy's `L-BFGS-B` without bounds.
    """
    refuse_noise(model)
    rows = Rows(*train)
    loss_function.check_targets(rows.y, model.forward(rows.X[:1], train=False).shape[1])
    objective = _Objective(model, loss_function, rows, weight_decay)
    accepted = model.params.astype(np.float64)
    iteration = 0

    def after_iteration(x: Array) -> None:
        nonlocal iteration
        iteration += 1
        accepted[:] = x
        if callback is not None:
            callback(iteration, objective.value)

    # NumPy's wheels and SciPy's each bring a BLAS of their own, whose threads fight for the cores.
    threads = blas.automatic_threads(model.params.size * rows.X.shape[0])
    try:
        with (
            kernels.threads(threads if kernels.has_crew() else 1),
            blas.limited_to(1, SCIPYS_BLAS),
        ):
            found = minimize(
                objective.loss,
                accepted.copy(),
                jac=objective.gradient,
                method="L-BFGS-B",
                callback=after_iteration,
                options={"maxiter": max_iterations, "maxfun": max_evaluations, "gtol": tolerance},
            )
        accepted[:] = found.x
    finally:
        model.params[:] = accepted
    found.nit = min(found.nit, max_iterations)
    return found


def refuse_noise(model: Sequential) -> None:
    """Raise ValueError if the model's loss is not a function of its weights alone."""
    for path, layer in walk_paths(model.layers):
        if type(layer).begin_step is not Layer.begin_step or layer.buffer_names:
            what = "batch statistics" if layer.buffer_names else "noise"
            raise ValueError(
                f"model must be free of noise for L-BFGS: layer {path} is {type(layer).__name__}, "
                f"with {what}; use a stochastic optimizer, or leave the layer out"
            )


def _chunk_rows(model: Sequential, n_in: int) -> int:
    """As many rows as have activations of the size of the gradient, which each chunk adds to.

    Chunks have between once and twice so many.
    """
    n_activations = 0
    for layer in model.layers:
        n_in = layer.output_size(n_in)
        n_activations += n_in
    return max(CHUNK_ROWS, model.params.size // n_activations)


class _Objective:
    """The loss and its gradient as functions of the flat vector, as float64.

    SciPy asks for both at the same weights, for the loss first, which computes the gradient, too.
    """

    def __init__(
        self, model: Sequential, loss_function: Loss, rows: Rows, weight_decay: float
    ) -> None:
        self.model, self.loss_function, self.weight_decay = model, loss_function, weight_decay
        self.value, self._gradient, self._first = math.nan, np.empty(0), True
        self._total = loss_function.total_weight(rows.y, rows.sample_weight)
        n_rows, n_in = rows.X.shape
        n_chunks = max(1, n_rows // _chunk_rows(model, n_in))  # a short last one costs a gradient
        bounds = batch_bounds(n_rows, -(-n_rows // n_chunks))
        self._chunks = [rows.select(slice(start, stop)) for start, stop in bounds]
        self._replica = model.replica()
        self._differentiation = Differentiation(self._replica, loss_function)
        self._replica.enter_loop()
        self._differentiation.begin_epoch()

    def loss(self, x: Array) -> float:
        """Return the loss at x, and keep it and the gradient."""
        model = self._replica  # its `params` are the model's
        model.params[:] = x
        loss = 0.0
        for i, chunk in enumerate(self._chunks, 1):
            loss += self._differentiation.whole(chunk, total_weight=self._total)
            if self.weight_decay and i == len(self._chunks):
                loss += model.add_l2(self.weight_decay)
            if i == 1:
                self._gradient = model.grads.astype(np.float64, copy=len(self._chunks) > 1)
            else:
                self._gradient += model.grads
        if self._first and not math.isfinite(loss):
            raise DivergenceError(
                f"the loss is {loss} at the first weights: scale the inputs, or start smaller"
            )
        self._first, self.value = False, loss
        return loss

    def gradient(self, x: Array) -> Array:
        """Return the gradient at the x of the loss before."""
        return self._gradient
