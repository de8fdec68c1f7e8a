"""`TabularClassifier` and `TabularRegressor`: raw tables in, calibrated predictions out."""

from minidl.tabular.classifier import TabularClassifier
from minidl.tabular.encoder import TableEncoder
from minidl.tabular.regressor import TabularRegressor

__all__ = ["TableEncoder", "TabularClassifier", "TabularRegressor"]
