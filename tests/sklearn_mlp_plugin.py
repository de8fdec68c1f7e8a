"""Puts the package's estimators where scikit-learn's tests of its own look for them.

A pytest plugin (`pytest -p tests.sklearn_mlp_plugin`): it must be loaded before the test module of
scikit-learn is imported.
"""

import sklearn.neural_network

from minidl.estimators import MLPClassifier, MLPRegressor

sklearn.neural_network.MLPClassifier = MLPClassifier
sklearn.neural_network.MLPRegressor = MLPRegressor
