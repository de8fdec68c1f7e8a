"""The classifier: labels in and out, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from minidl.data.batches import Rows
from minidl.estimators.building import loss_function_of
from minidl.estimators.documentation import documented
from minidl.estimators.fitting import trains_in_epochs
from minidl.estimators.perceptron import Classes, Perceptron
from minidl.kernels import Array
from minidl.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from minidl.predictor import Predictor


@documented
@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]
    """Multilayer perceptron for classification.

    `sklearn.neural_network.MLPClassifier`, and what it does not have. It minimises the log loss: of
    a softmax for several classes, of one logistic output for two, of one each for several labels a
    row.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer.
    activation : str, default='relu'
        'identity', 'logistic', 'tanh', 'relu', or any other activation of a config.
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
        **Perceptron._parameter_constraints,
        "loss": [str, dict],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _score_name = "accuracy"

    @available_if(trains_in_epochs)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Update the model with one epoch over the given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call, and only there.

        Returns
        -------
        self : object
        """
        if _check_partial_fit_first_call(self, classes):
            self._set_kind(y)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes), in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 1 and len(self.classes_) == 1:
            return np.ones_like(outputs)
        if outputs.shape[1] == 1:
            outputs = np.hstack([-outputs, outputs])
        return self._loss_function.predict(outputs)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, minus infinity where that is 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        """
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.predict_proba(X))
        return logs

    def _set_kind(self, y: Any) -> None:
        """Tell labels from indicator matrices."""
        kind = type_of_target(y, input_name="y")
        check_classification_targets(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "Multioutput target data is not supported with label binarization: give one label "
                "a row, or a matrix of 0 and 1 with a column for each label"
            )
        self._multilabel = kind == "multilabel-indicator"
        self._sparse_labels = issparse(y)

    def _check_targets(self, y: Any, dtype: Any, classes: Classes) -> Array:
        if classes == "new" and not hasattr(self, "coefs_") and hasattr(self, "classes_"):
            classes = "known"  # of the first partial_fit
        if classes == "new":
            self._set_kind(y)
            self.classes_ = unique_labels(y)
        else:
            given = unique_labels(y)
            if classes == "same" and set(given) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_}, `y` has {given}"
                )
            if len(np.setdiff1d(given, self.classes_, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {given}."
                )
        if self._multilabel:
            targets = (y.toarray() if issparse(y) else np.asarray(y)).astype(dtype)
        else:
            targets = np.searchsorted(self.classes_, y)
            if self._has_one_logit:
                targets = targets.astype(dtype)
        if self.label_smoothing and targets.dtype == dtype:  # labels leave it to the loss function
            targets = (1 - self.label_smoothing) * targets + self.label_smoothing / 2
        return targets

    def _as_given(self, targets: Array) -> Array:
        marks = targets if targets.dtype.kind == "i" else (targets > 0.5).astype(np.int64)
        given: Array = marks if self._multilabel else self.classes_[marks]
        return given

    def _make_loss(self) -> Loss:
        if self.loss == "log_loss":
            if self._multilabel or len(self.classes_) <= 2:
                loss_function: Loss = SigmoidCrossEntropy()
            else:
                loss_function = SoftmaxCrossEntropy(label_smoothing=self.label_smoothing)
        else:
            loss_function = loss_function_of(self.loss)
            if self.label_smoothing:
                raise ValueError(
                    "label_smoothing is for loss='log_loss'; give another loss its own"
                )
            if (
                loss_function.task == "multilabel"
                and not self._multilabel
                and len(self.classes_) > 2
            ):
                raise ValueError(f"loss={self.loss!r} is for two classes or several labels a row")
            if loss_function.task == "regression":
                raise ValueError(f"loss must be one for classification, got {self.loss!r}")
        self.out_activation_ = "softmax" if loss_function.task == "classification" else "logistic"
        return loss_function

    def _count_outputs(self, targets: Array) -> int:
        if self._multilabel:
            return int(targets.shape[1])
        return 1 if self._has_one_logit else len(self.classes_)

    def _decide(self, outputs: Array) -> Array:
        decided = self._loss_function.decide(outputs)
        if self._multilabel:
            return csr_matrix(decided) if self._sparse_labels else decided
        labels: Array = self.classes_[np.minimum(decided.reshape(-1), len(self.classes_) - 1)]
        return labels

    def _training_rows(self, rows: Rows) -> Rows:
        """The rows with the weights of their classes in their own."""
        if self.class_weight is None:
            return rows
        labels = rows.y if rows.y.dtype.kind == "i" else (rows.y > 0.5).astype(np.int64)
        n_classes = len(self.classes_)
        if self._multilabel:  # the product over the labels
            weight = compute_sample_weight(self.class_weight, labels)
        elif isinstance(self.class_weight, str):
            # Counted by weight, so that a weight of k remains a row given k times.
            counts = np.bincount(labels, rows.sample_weight, n_classes)
            shares = counts[labels] * np.count_nonzero(counts)
            weight = np.divide(counts.sum(), shares, out=np.zeros(len(labels)), where=shares > 0)
        else:
            unknown = set(self.class_weight) - set(self.classes_.tolist())
            if unknown:
                raise ValueError(f"class_weight names {sorted(unknown)}, not in {self.classes_}")
            factors = np.array([self.class_weight.get(label, 1.0) for label in self.classes_])
            weight = factors[labels]
        weight = weight.astype(rows.X.dtype)
        return rows._replace(
            sample_weight=weight if rows.sample_weight is None else weight * rows.sample_weight
        )

    def _strata(self, targets: Array) -> Array | None:
        return targets[:, None] > 0.5 if self.n_outputs_ == 1 and targets.ndim == 1 else None

    def _loss_in_words(self) -> Any:
        if self.loss != "log_loss":
            return self.loss
        return {"name": "softmax_cross_entropy", "label_smoothing": float(self.label_smoothing)}

    def _restore_targets(self, predictor: Predictor) -> None:
        self.classes_ = np.asarray(predictor.classes)
        self._multilabel = predictor.loss_function.task == "multilabel" and self.n_outputs_ > 1
        self._sparse_labels = False

    @property
    def _has_one_logit(self) -> bool:
        return len(self.classes_) <= 2 and (
            self.loss == "log_loss" or loss_function_of(self.loss).task == "multilabel"
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
