"""`MLPClassifier` and `MLPRegressor`: scikit-learn's contract over the package's one loop."""

from minidl.estimators.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
