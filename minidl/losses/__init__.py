"""Losses: each turns outputs and targets into (loss, dlogits), and outputs into predictions.

A loss stands after the last layer in place of an output activation, so that the two cancel where
they would lose digits: no softmax is ever computed to have its logarithm taken. `LOSSES` gives the
name of each in a YAML file.
"""

from minidl.losses.classification import SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.losses.loss import Loss
from minidl.losses.regression import MAE, MSE, Huber, Pinball, Poisson

__all__ = [
    "MAE",
    "MSE",
    "Huber",
    "Loss",
    "Pinball",
    "Poisson",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
]

LOSSES: dict[str, type[Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "quantile": Pinball,
    "poisson": Poisson,
}

LOWER_IS_BETTER = Loss.lower_is_better
