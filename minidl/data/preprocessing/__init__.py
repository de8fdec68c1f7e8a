"""What happens to the features before the first layer; fitted on the training part only.

The model keeps it, so that a prediction starts from raw features. `PREPROCESSINGS` gives the name
of each in a YAML file. NumPy only.
"""

from minidl.data.preprocessing import features, scaling, tabular
from minidl.data.preprocessing.scaling import Preprocessing

_KINDS: tuple[type[Preprocessing], ...] = (
    scaling.Unchanged,
    scaling.Unit,
    scaling.GlobalStandard,
    scaling.Standard,
    scaling.MinMax,
    scaling.Robust,
    tabular.SmoothClip,
    tabular.QuantileTransform,
    tabular.PiecewiseLinear,
    features.TableFeatures,
)
PREPROCESSINGS = {kind.name: kind for kind in _KINDS}
PREPROCESSINGS["mean_std"] = scaling.GlobalStandard  # in older files
