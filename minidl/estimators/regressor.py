"""The regressor: one or several numbers a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.metaestimators import available_if

from minidl.estimators.mlp import MLP, trains_in_epochs
from minidl.estimators.parameters import ATTRIBUTES, NOTES, PARAMETERS, documented


@documented(PARAMETERS, ATTRIBUTES, NOTES)
@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]
    """Multilayer perceptron for regression, of one or several targets.

    `sklearn.neural_network.MLPRegressor`, and what it does not have.

    Parameters
    ----------
    loss : str or dict, default='squared_error'
        'squared_error', half the squared error, summed over the targets in a step and averaged in
        what is reported; 'poisson', half the Poisson deviance of exp(output), for y >= 0; or in
        the notation of a config: 'huber', 'mae', `{"quantile": 0.9}`, ... With several quantiles of
        one target, `predict` gives a column for each.
    <shared>

    Attributes
    ----------
    <shared>

    Notes
    -----
    <shared>

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from minidl.estimators import MLPRegressor
    >>> X, y = make_regression(200, 5, noise=1.0, random_state=0)
    >>> y /= y.std()
    >>> regressor = MLPRegressor(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> regressor.predict(X[:3]).shape
    (3,)
    >>> regressor.score(X, y) > 0.95
    True
    """

    loss: str | Mapping[str, Any] = "squared_error"
    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: str = "relu"

    @available_if(trains_in_epochs)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Update the model with one epoch over the given data, given as for `fit`."""
        return self._fit(X, y, sample_weight, incremental=True)
