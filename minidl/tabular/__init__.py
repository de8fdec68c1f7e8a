"""`TabularClassifier` and `TabularRegressor`: raw tables in, calibrated predictions out."""

from minidl.tabular.encoder import TableEncoder
from minidl.tabular.estimators import TabularClassifier, TabularRegressor

__all__ = ["TableEncoder", "TabularClassifier", "TabularRegressor"]
