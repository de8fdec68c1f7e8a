"""What happens to the features before the first layer; fitted on the training part only.

The model keeps it, so that a prediction starts from raw features. `PREPROCESSINGS` gives the name
of each in a YAML file. NumPy only.
"""

from collections.abc import Mapping
from typing import Any

from minidl.data.preprocessing.contract import Preprocessing
from minidl.data.preprocessing.features import TableFeatures
from minidl.data.preprocessing.scaling import (
    GlobalStandard,
    MinMax,
    Robust,
    Scaling,
    Standard,
    Unchanged,
    Unit,
)
from minidl.data.preprocessing.tabular import (
    PiecewiseLinear,
    QuantileTransform,
    SmoothClip,
    Tabular,
)
from minidl.errors import CheckpointError

__all__ = [
    "PREPROCESSINGS",
    "GlobalStandard",
    "MinMax",
    "PiecewiseLinear",
    "Preprocessing",
    "QuantileTransform",
    "Robust",
    "Scaling",
    "SmoothClip",
    "Standard",
    "TableFeatures",
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
        GlobalStandard,
        Standard,
        MinMax,
        Robust,
        SmoothClip,
        QuantileTransform,
        PiecewiseLinear,
        TableFeatures,
    )
}
PREPROCESSINGS["mean_std"] = GlobalStandard  # its former name, in older configs and model files


def from_state(name: str, arrays: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of that name with what its `state` gave.  Raises CheckpointError."""
    if name not in PREPROCESSINGS:
        raise CheckpointError(f"preprocessing {name!r} is not known to this version")
    return PREPROCESSINGS[name]().restore(arrays)
