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
    ParametricMix,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear

LAYERS: dict[str, type[Layer]] = {
    "linear": Linear,
    **ACTIVATIONS,
    "parametric": ParametricMix,
}

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "SELU",
    "Activation",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Linear",
    "Mish",
    "ParametricMix",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]
