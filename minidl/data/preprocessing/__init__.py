"""What happens to the features before the first layer; fitted on the training part only.

The model keeps it, so that a prediction starts from raw features. `PREPROCESSINGS` gives the name
of each in a YAML file. NumPy only.
"""

from collections.abc import Mapping

import numpy as np

from minidl.data.preprocessing.affine import (
    Affine,
    MeanStd,
    MinMax,
    Robust,
    Standard,
    Unchanged,
    Unit,
)
from minidl.data.preprocessing.contract import Preprocessing
from minidl.data.preprocessing.tabular import PiecewiseLinear, Quantile, SmoothClip, Tabular
from minidl.errors import CheckpointError

__all__ = [
    "PREPROCESSINGS",
    "Affine",
    "MeanStd",
    "MinMax",
    "PiecewiseLinear",
    "Preprocessing",
    "Quantile",
    "Robust",
    "SmoothClip",
    "Standard",
    "Tabular",
    "Unchanged",
    "Unit",
    "from_state",
]

PREPROCESSINGS: dict[str, type[Preprocessing]] = {
    kind.name: kind
    for kind in (
        Unchanged,
        Unit,
        MeanStd,
        Standard,
        MinMax,
        Robust,
        SmoothClip,
        Quantile,
        PiecewiseLinear,
    )
}


def from_state(name: str, arrays: Mapping[str, np.ndarray]) -> Preprocessing:
    """Return the preprocessing of that name with what its `state` gave.  Raises CheckpointError."""
    if name not in PREPROCESSINGS:
        raise CheckpointError(f"preprocessing {name!r} is not known to this version")
    return PREPROCESSINGS[name]().restore(arrays)
