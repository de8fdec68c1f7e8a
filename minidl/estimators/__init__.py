"""`MLPClassifier` and `MLPRegressor`: scikit-learn's contract over the package's one loop."""

from minidl.estimators.classifier import MLPClassifier
from minidl.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
