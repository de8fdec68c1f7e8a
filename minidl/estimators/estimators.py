"""The two estimators: labels in and out, whatever they are; one or several numbers a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, unique_labels

from minidl.estimators.mlp import MLP, trains_in_epochs
from minidl.estimators.parameters import ATTRIBUTES, NOTES, PARAMETERS, documented
from minidl.estimators.targets import Classes, Targets, plain_targets
from minidl.kernels import Array


@documented(PARAMETERS, ATTRIBUTES, NOTES)
@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]
    """Multilayer perceptron for classification.

    `sklearn.neural_network.MLPClassifier`, and what it does not have. It minimises the log loss: of
    a softmax for several classes, of one logistic output for two, of one each for several labels a
    row.

    Parameters
    ----------
    <shared>
    loss : str or dict, default='log_loss'
        In the notation of a config, 'softmax_cross_entropy' has an output for each class also for
        two classes.
    class_weight : dict, 'balanced' or None, default=None
        Factor of the sample weights for each class, in training; 'balanced' is n_samples /
        (n_classes * rows of the class).
    label_smoothing : float, default=0.0
        Share, in [0, 1), of each target that is spread evenly over the classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of the columns of `predict_proba`.
    <shared>

    Notes
    -----
    <shared>

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from minidl.estimators import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> clf.predict(X[:2]), clf.predict_proba(X[:2]).round(1)
    (array([0, 0]), array([[1., 0., 0.],
           [1., 0., 0.]]))
    >>> clf.score(X, y) > 0.95
    True
    """

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: str = "relu"
    loss: str | Mapping[str, Any] = field(default="log_loss", kw_only=True)
    class_weight: str | Mapping[Any, float] | None = field(default=None, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    @available_if(trains_in_epochs)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Update the model with one epoch over the given data, given as for `fit`.

        classes: all that will ever come, (n_classes,); needed in the first call, and only there.
        """
        with self._restored_after_an_error():
            _check_partial_fit_first_call(self, None if classes is None else plain_targets(classes))
            return self._fit(X, y, sample_weight, incremental=True)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes), in the order of `classes_`.

        X: {array-like, sparse matrix} of shape (n_samples, n_features).
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 1 and len(self.classes_) == 1:
            return np.ones_like(outputs)
        if outputs.shape[1] == 1:
            outputs = np.hstack([-outputs, outputs])
        return np.asarray(self._targets.loss_function.predict(outputs))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def _targets_of(self, y: Any, *, learns: bool, incremental: bool) -> Targets:
        if learns:  # `partial_fit` was given all classes
            return Classes.of(y, np.asarray(self.classes_) if incremental else None)
        if self.warm_start and set(given := unique_labels(y)) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes_}, `y` has {given}"
            )
        return super()._targets_of(y, learns=learns, incremental=incremental)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


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
