"""One differentiable map each: forward, and backward written by hand.

`LAYERS` gives the name of each in a YAML file.
"""

from minidl.layers.activations import (
    ACTIVATIONS,
    ELU,
    GELU,
    SELU,
    Activation,
    Identity,
    LeakyReLU,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear
from minidl.layers.noise import Dropout, GaussianNoise, Noise
from minidl.layers.normalization import BatchNorm, LayerNorm, RMSNorm, Scale
from minidl.layers.residual import ParametricMix, Residual

LAYERS: dict[str, type[Layer]] = {
    "linear": Linear,
    **ACTIVATIONS,
    "parametric": ParametricMix,
    "dropout": Dropout,
    "gaussian_noise": GaussianNoise,
    "batch_norm": BatchNorm,
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
    "scale": Scale,
    "residual": Residual,
}

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "BatchNorm",
    "Dropout",
    "GaussianNoise",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Mish",
    "Noise",
    "ParametricMix",
    "RMSNorm",
    "ReLU",
    "Residual",
    "Scale",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]
