"""The classifier: labels in and out, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, unique_labels

from minidl.estimators.building import chosen
from minidl.estimators.labels import Labels, plain_targets
from minidl.estimators.mlp import MLP, trains_in_epochs
from minidl.estimators.parameters import ATTRIBUTES, NOTES, PARAMETERS, documented
from minidl.kernels import Array
from minidl.losses import Loss


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
        loss_function: Loss = self._targets.loss_function
        return loss_function.predict(outputs)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def _labels_of(self, y: Any, *, begins: bool, incremental: bool) -> Labels:
        if hasattr(self, "_targets") and not begins:
            labels: Labels = self._targets.labels
            given = unique_labels(y)
            if self.warm_start and set(given) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_}, `y` has {given}"
                )
            return labels
        own = None if self.loss == "log_loss" else chosen("loss", self.loss).build()
        classes = np.asarray(self.classes_) if incremental else None  # by `partial_fit`
        return Labels.of(y, classes, one_hot=own is not None and own.task != "multilabel")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
