"""A temperature for outputs whose probabilities are too timid or too bold."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from minidl.kernels import Array
from minidl.losses import Loss

LARGEST = np.log(20.0)


def temperature(
    loss_function: Loss, outputs: Array, targets: Array, sample_weight: Array | None = None
) -> float:
    """Return the t for which outputs / t have the least loss, or 1 where none has less than that.

    outputs: for rows that the model has not seen, (n_samples, n_outputs).  The order of the
    classes stays as it is.
    Guo et al., On Calibration of Modern Neural Networks, 2017.
    """

    def loss(log_t: float) -> float:
        return loss_function(outputs / np.exp(log_t), targets, sample_weight)[0]

    found = minimize_scalar(loss, bounds=(-LARGEST, LARGEST), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0
