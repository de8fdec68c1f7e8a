"""minidl: multilayer perceptrons on NumPy, every gradient written by hand.

The engine: layers, losses, optimizers and schedules; `Sequential`, which stacks layers over one
vector of parameters; `fit`, the training loop; `check_gradients`, which proves a backward pass; and
`save` and `load`, for trained models. The scikit-learn estimators are in `minidl.estimators`.
"""

import sys
from typing import TYPE_CHECKING, Any

from minidl import startup  # noqa: F401 - first: it handles Ctrl-C during the other imports

# isort: split
from minidl import layers, losses
from minidl._version import __version__
from minidl.best import EarlyStopping
from minidl.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    MinidlError,
    ParameterError,
)
from minidl.evaluation import evaluate
from minidl.fitting import fit
from minidl.gradcheck import check_gradients, jacobian
from minidl.layers import *  # noqa: F403
from minidl.losses import *  # noqa: F403
from minidl.model import Sequential
from minidl.optimizers import SGD, Adam, AdamW, RMSprop
from minidl.progress import Epoch
from minidl.schedules import (
    Constant,
    Cosine,
    CosLog4,
    ExponentialDecay,
    LinearDecay,
    OneCycle,
    StepDecay,
)
from minidl.training import Training

if TYPE_CHECKING:  # for type checkers: see _late
    from minidl.predictor import Predictor, load, save

__all__ = [
    *layers.__all__,
    *losses.__all__,
    "SGD",
    "Adam",
    "AdamW",
    "CheckpointError",
    "ConfigError",
    "Constant",
    "CosLog4",
    "Cosine",
    "DataError",
    "DivergenceError",
    "EarlyStopping",
    "Epoch",
    "ExponentialDecay",
    "LinearDecay",
    "MinidlError",
    "OneCycle",
    "ParameterError",
    "Predictor",
    "RMSprop",
    "Sequential",
    "StepDecay",
    "Training",
    "__version__",
    "check_gradients",
    "evaluate",
    "fit",
    "jacobian",
    "load",
    "save",
]


def _late(name: str) -> Any:
    """Import with its first use what takes long, as the readers of tables, or scikit-learn."""
    if name in ("Predictor", "load", "save"):
        from minidl import predictor

        return getattr(predictor, name)
    if name == "config":
        import minidl.config
    elif name == "estimators":
        import minidl.estimators
    elif name == "tabular":
        import minidl.tabular
    elif name == "report":
        import minidl.report  # noqa: F401
    else:
        raise AttributeError(f"module 'minidl' has no attribute {name!r}")
    return sys.modules[f"minidl.{name}"]


# Not as `def __getattr__`: type checkers would then accept every misspelt name.
globals()["__getattr__"] = _late
