"""One differentiable map each: forward, and backward written by hand.

`LAYERS` gives the name of each in a YAML file.
"""

from minidl.layers.activations import ReLU
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear

LAYERS: dict[str, type[Layer]] = {
    "linear": Linear,
    "relu": ReLU,
}

__all__ = ["LAYERS", "Layer", "Linear", "ReLU"]
