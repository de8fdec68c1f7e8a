"""minidl: multilayer perceptrons on NumPy, every gradient written by hand."""

from minidl._version import __version__
from minidl.layers import Linear, ReLU
from minidl.losses import SoftmaxCrossEntropy
from minidl.model import Sequential
from minidl.optimizers import SGD
from minidl.predictor import Predictor, load
from minidl.training import EarlyStopping, Epoch, Training, evaluate, fit

__all__ = [
    "SGD",
    "EarlyStopping",
    "Epoch",
    "Linear",
    "Predictor",
    "ReLU",
    "Sequential",
    "SoftmaxCrossEntropy",
    "Training",
    "__version__",
    "evaluate",
    "fit",
    "load",
]
