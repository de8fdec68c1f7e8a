"""What a user calls on both estimators, in reading order: fit, predict, file, weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import _fit_context, is_regressor
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from minidl.data.batches import Rows
from minidl.data.preprocessing.scaling import Unchanged
from minidl.errors import DivergenceError
from minidl.estimators.callbacks import CallbackSupportMixin
from minidl.estimators.files import InFiles
from minidl.estimators.network import CURVES, Network, weight_lists
from minidl.estimators.notation import hidden_sizes, make_model
from minidl.estimators.targets import Classes, Targets, plain_targets, targets_of
from minidl.evaluation import is_usable, predict_outputs
from minidl.kernels import Array
from minidl.layers.linear import Linear
from minidl.model import Sequential
from minidl.predictor import Predictor

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)
FITTED = ("n_iter_", "t_", "loss_", "history_", *CURVES)  # of what a file keeps


def trains_in_epochs(estimator: Any) -> bool:
    """Whether an estimator has a `partial_fit`; raise AttributeError where it has not."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    for name in ("ema", "schedule"):
        if getattr(estimator, name) is not None:
            raise AttributeError(
                f"partial_fit does not support {name}: it needs to know how many epochs will come"
            )
    return True


class MLP(CallbackSupportMixin, Network, InFiles):  # type: ignore[misc]
    """Base of the estimators."""

    label_smoothing = 0.0  # a parameter of the classifier

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the model to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Inputs. float32 is computed in float32, anything else in float64.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, an indicator matrix of labels, or numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; a weight of k is a row given k times.
        X_val, y_val, sample_weight_val : like X, y, sample_weight, default=None
            Validation data. It is measured after each epoch (with "lbfgs", each iteration), and
            stochastic solvers keep the best weights; with `early_stopping` it takes the place of
            the part that is split off.

        Returns
        -------
        self : object
            A fit that raises an error leaves the estimator as it was before.

        Raises
        ------
        ValueError
            For a parameter out of range, data that does not fit, or training that diverged.
        """
        if X_val is None and not (y_val is None and sample_weight_val is None):
            raise ValueError("y_val and sample_weight_val need X_val")
        validation = None if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, validation)

    @available_if(trains_in_epochs)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Update the model with one epoch over the given data, given as for `fit`."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predictor(self) -> Predictor:
        """Return the fitted model as `minidl.load` returns it: to predict, save or export."""
        check_is_fitted(self)
        self._copy_in_weights()
        names = getattr(self, "feature_names_in_", None)
        return Predictor(
            self._model,
            self._targets.plain_loss,
            Unchanged().fit(np.zeros((1, self.n_features_in_))),
            self.n_features_in_,
            getattr(self, "classes_", None),
            None if names is None else list(names),
        )

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        self._copy_in_weights()
        # The general check takes ten times as long as one row does.
        if hasattr(self, "feature_names_in_") or not is_usable(X, self.n_features_in_):
            X = validate_data(self, X, accept_sparse="csr", reset=False)
            self._check_first_layer(X)
        return predict_outputs(self._model, X)

    def _fitted(self) -> dict[str, Any]:
        fitted = {name: self.__dict__.get(name) for name in FITTED}
        return {**fitted, "indicator": self._targets.indicator}

    def _take(self, predictor: Predictor, fitted: dict[str, Any]) -> None:
        for name in FITTED:
            if fitted.get(name) is not None or name.startswith(("best", "validation")):
                setattr(self, name, fitted.get(name))
        self._model, self.n_features_in_ = predictor.model, predictor.n_features
        if predictor.feature_names is not None:
            self.feature_names_in_ = np.asarray(predictor.feature_names, dtype=object)
        self.n_outputs_ = predictor.model.output_size(predictor.n_features)
        self._take_targets(targets_of(predictor, fitted.get("indicator")))
        self._built_from = self._architecture()
        self._list_weights()

    # --- Fit.

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any] | None = None,
        *,
        incremental: bool = False,
    ) -> Self:
        """Fit to X and y; incremental: for one epoch, from the weights that there are."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        with self._restored_after_an_error():
            begins = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
            learns = begins or not hasattr(self, "_model")  # weights may have been set by hand
            X, y = self._check_rows(X, y, reset=learns)
            self._take_targets(self._targets_of(y, learns=learns, incremental=incremental))
            rows, held_out = self._rows(X, y, sample_weight), None
            if learns:
                self._targets = self._targets.fitted(rows.y)
                self.n_outputs_ = self._targets.count_outputs(rows.y)
            if validation is not None:
                X_val, y_val = self._check_rows(*validation[:2], reset=False)
                held_out = self._rows(X_val, y_val, validation[2])
            exact = self.warm_start == "exact" and not (begins or incremental)
            if not exact or getattr(self, "_resume", None) is None:
                self._resume = None
                self._random_state = check_random_state(self.random_state)
            if learns:
                by_hand = {k: v for k, v in vars(self).items() if k.endswith("_")}
                self._initialize(X)
                self.__dict__.update({} if begins else by_hand)
            if not begins:
                self._copy_in_weights()
                self._check_architecture()
            self._check_first_layer(X)
            if self._model.buffers.size and X.shape[0] == 1:
                raise ValueError("batch normalization needs several rows, got n_samples=1")
            if self.solver == "lbfgs":
                self._fit_full_batch(rows, held_out)
            else:
                self._fit_in_epochs(rows, held_out, incremental=incremental)
            if not all(np.isfinite(v).all() for v in (self._model.params, self._model.buffers)):
                raise ValueError(NOT_FINITE)
        return self

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            plain_targets(y),
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),  # in which the model then computes
            reset=reset,
            y_numeric=is_regressor(self),
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _targets_of(self, y: Any, *, learns: bool, incremental: bool) -> Targets:
        """Return the targets of y, or those of before for a fit that goes on."""
        return Targets() if learns else self._targets

    def _take_targets(self, targets: Targets) -> None:
        """Take targets, or go on with those of before, with the loss of the parameters."""
        self._targets = targets = targets.trained_by(self.loss, self.label_smoothing)
        if isinstance(targets, Classes):
            self.classes_ = targets.classes
        self.__dict__.pop("out_activation_", None)
        if self.layers is None:
            self.out_activation_ = targets.activation

    def _rows(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return Rows(X, self._targets.encode(y, X.dtype), sample_weight)

    # --- The weights.

    def _initialize(self, X: Any) -> None:
        n_in, n_outputs = X.shape[1], self.n_outputs_
        self._model = make_model(self, n_in, n_outputs, self._random_state, X.dtype)
        self._built_from = self._architecture()
        self._list_weights()
        self.n_iter_, self.t_, self.history_ = 0, 0, []
        for name in (*CURVES, "_no_improvement_count"):
            self.__dict__.pop(name, None)

    def _architecture(self) -> dict[str, Any]:
        """Return what a fit that goes on cannot change."""
        names = ("activation", "dropout", "layers")
        sizes = hidden_sizes(self.hidden_layer_sizes) if self.layers is None else None
        return {**{name: getattr(self, name) for name in names}, "hidden_layer_sizes": sizes}

    def _check_architecture(self) -> None:
        for name, value in self._architecture().items():
            if value != (before := self._built_from[name]):
                raise ValueError(
                    f"{name} must be that of the fit that is continued, {before!r}, got {value!r}"
                )

    def _check_first_layer(self, X: Any) -> None:
        first = self._model.layers[0]
        if issparse(X) and not isinstance(first, Linear):
            raise ValueError(
                f"sparse X needs a linear layer first, but layers begins with "
                f"{type(first).__name__}: give X.toarray()"
            )

    def _list_weights(self) -> None:
        self.__dict__.update(weight_lists(self._model))
        self.n_layers_ = len(self.coefs_) + 1

    def _copy_in_weights(self) -> None:
        """Copy into the model what a user put in place of its views in the lists."""
        for name, views in weight_lists(self._model).items():
            given, shapes = getattr(self, name), [view.shape for view in views]
            if [np.shape(array) for array in given] != shapes:
                raise ValueError(f"{name} must be arrays of the shapes {shapes}")
            for array, view in zip(given, views, strict=True):
                if array is not view:
                    view[:] = array
            setattr(self, name, views)

    @contextmanager
    def _restored_after_an_error(self) -> Iterator[None]:
        before = {k: list(v) if type(v) is list else v for k, v in self.__dict__.items()}
        model: Sequential | None = self.__dict__.get("_model")
        vectors = () if model is None else (model.params, model.buffers)
        values = [vector.copy() for vector in vectors]
        try:
            yield
        except BaseException as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            self.__dict__.pop("_optimizer", None)  # its averages may hold what is not finite
            for vector, value in zip(vectors, values, strict=True):
                vector[:] = value
            if isinstance(error, DivergenceError):
                raise ValueError(NOT_FINITE) from error
            raise

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_model" in state:  # the lists are views into it; copies of views are not
            state.pop("coefs_", None)
            state.pop("intercepts_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_model" in state:
            self._list_weights()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
