"""What both estimators do: fit, predict, explain, save and load, in reading order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
)

from minidl.data.batches import Rows
from minidl.data.preprocessing.features import TableFeatures
from minidl.errors import require
from minidl.estimators.files import opened, save
from minidl.estimators.labels import Labels, plain_targets
from minidl.estimators.targets import ClassTargets, Targets
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.losses.regression import ScaledLoss
from minidl.model import Sequential
from minidl.predictor import Predictor
from minidl.tabular.encoder import TableEncoder
from minidl.tabular.explanation import Explanation, integrated_gradients
from minidl.tabular.members import folds_of, train_members

LABEL_SMOOTHING = 0.1

PARAMETERS = """\
columns : dict or None, default=None
    Kinds of columns by name, where they are not to be told from the cells: "number", "category",
    "date", "date FORMAT" or "ignore".
missing : list of str, default=()
    Texts that mark a gap, beside the usual ones such as "" and "NA".
n_members : int or None, default=None
    Nets in the ensemble, each trained without one of as many folds of the rows. None is 5, and 1,
    with a fifth of the rows held out, from 200,000 rows on.
random_state : int, RandomState instance or None, default=None
    The same number gives the same bits, whatever `n_jobs` is.
n_jobs : int or None, default=None
    Processes that train members at the same time, as in joblib. None is one for each core where
    the table is large enough to gain by it.
time_limit : float or None, default=None
    Seconds that `fit` may take. The learning rate falls to 0 by then, so there is a model in any
    case; encoding the table is not counted, and results depend on the speed of the machine.
progress : bool, default=False
    Whether to show a bar."""
ATTRIBUTES = """\
encoder_ : TableEncoder
    The kinds of the columns, in `encoder_.schema_`, and what becomes of them.
oof_prediction_ : ndarray
    For each training row the probabilities, or the value, that the net predicts which has not
    seen it; NaN where there is none. Rows of weight 0 are left out.
conformal_scores_ : ndarray
    Errors of these predictions: see `minidl.conformal`.
n_members_, n_outputs_ : int
    Nets; outputs of each.
n_features_in_, feature_names_in_ : int, ndarray of str
    The columns of the training table; names only where it has them."""


@dataclass(eq=False, repr=False)
class Tabular(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of both estimators; the parameters are documented there."""

    _: KW_ONLY
    columns: Mapping[str, str] | None = None
    missing: Sequence[str] = ()
    n_members: int | None = None
    random_state: int | np.random.RandomState | None = None
    n_jobs: int | None = None
    time_limit: float | None = None
    progress: bool = False

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "columns": [dict, None],
        "missing": ["array-like"],
        "n_members": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "time_limit": [Interval(Real, 0, None, closed="neither"), None],
        "progress": ["boolean"],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the columns of a table, and train the members on it.

        Parameters
        ----------
        X : data frame (pandas, polars) or array-like of shape (n_samples, n_features)
            The raw table; values may be missing.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or numbers; for several labels a row, a matrix of 0 and 1.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For a parameter out of range, and for a cell that does not fit its column, with its
            row, column and value.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        encoder = TableEncoder(columns=self.columns, missing=self.missing).fit_schema(X)
        codes = encoder.encode(X)
        labels, y = self._check_targets(plain_targets(y))
        targets = self._targets_for(labels)
        check_consistent_length(codes, y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, codes)
        rows = Rows(codes, targets.encode(y, np.float64), sample_weight)
        rows = targets.weighted(rows, getattr(self, "class_weight", None))
        if rows.sample_weight is not None:
            rows = rows.select(rows.sample_weight > 0)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        seeds = np.random.SeedSequence(seed)
        strata, numbers = self._labels_and_numbers(rows.y)
        rng = np.random.default_rng(seeds.spawn(1)[0])
        folds = folds_of(strata, len(rows.y), self.n_members, rng)
        inputs = encoder.features_.fit_out_of_fold(rows.X, numbers, folds)
        self._targets = targets.fitted(rows.y)
        self.n_outputs_ = targets.count_outputs(rows.y)
        members, outputs = train_members(
            Rows(inputs, rows.y, rows.sample_weight),
            self._targets.loss_function,
            self.n_outputs_,
            folds,
            seeds=seeds.spawn(len(folds)),
            n_jobs=self.n_jobs,
            time_limit=self.time_limit,
            progress=self.progress,
        )
        self.encoder_, self.n_members_ = encoder, len(members)
        self._take_names()
        self._center = inputs.mean(axis=0, dtype=np.float64)
        self._calibrate(members, outputs, rows)
        return self

    def predict(self, X: Any) -> Any:
        """Return labels or numbers, (n_samples,) or (n_samples, n_outputs), in the form of y.

        X: data frame (pandas, polars) or array-like of shape (n_samples, n_features). The columns
        of a frame are taken by name; others are ignored.
        """
        outputs = self._outputs(X)
        return self._targets.decide(outputs)

    def explain(self, X: Any, output: int | None = None) -> Explanation:
        """Return what each column adds to the predictions, compared with the mean row.

        Integrated gradients from the mean of the training inputs: they add up to the output. For
        a regression that is the prediction. For a classification it is the score of a class: the
        logarithm of its probability, less the mean of those of all classes.

        output: place of the class in `classes_`, or of the target; by default the predicted class
        of each row, or the first target.
        """
        check_is_fitted(self)
        last = self.n_outputs_ - 1
        require("output", output, output is None or 0 <= output <= last, f"from 0 to {last}")
        features = self.encoder_.features_
        inputs = features.transform(self.encoder_.encode(X))
        most = predict_outputs(self._model, inputs).argmax(axis=1) if is_classifier(self) else 0
        places = np.full(len(inputs), most if output is None else output)
        weights, offset = self._explained(np.eye(self.n_outputs_)[places])
        found, base, outputs = integrated_gradients(
            self._model, self.n_members_, inputs, self._center, weights
        )
        names = tuple(column.name for column in self.encoder_.schema_.columns)
        used = np.array([names.index(name) for name in self.encoder_.schema_.names])
        values = np.zeros((len(names), len(inputs)))
        np.add.at(values, used[features.sources], found.T)
        return Explanation(values.T, base + offset, outputs + offset, names)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to a model file, without pickle.

        `load` reads it here; `minidl.load` reads it where there is only NumPy.
        """
        check_is_fitted(self)
        predictor = Predictor(
            self._model,
            self._targets.plain_loss,
            self.encoder_.features_,
            len(self.encoder_.schema_.used),
            getattr(self, "classes_", None),
            self.encoder_.schema_.names,
            conformal_scores=self.conformal_scores_,
        )
        fitted = {
            "n_members": self.n_members_,
            "indicator": self._targets.indicator,
            "center": self._center,
            "positional": not hasattr(self, "feature_names_in_"),
        }
        save(self, path, predictor, fitted)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the fitted estimator that `save` wrote.

        Raises CheckpointError for a file that is damaged, or that `save` of this class did not
        write.
        """
        self: Self
        with opened(path, cls) as (self, predictor, fitted):
            features, scores = predictor.preprocessing, predictor.conformal_scores
            if scores is None or not isinstance(features, TableFeatures):
                raise ValueError("it is not of a raw table, or holds no conformal scores")
            self._model, self.n_members_ = predictor.model, fitted["n_members"]
            self._center = np.asarray(fitted["center"], np.float64)
            self.conformal_scores_ = scores
            self.encoder_ = TableEncoder.restored(features, positional=fitted["positional"])
            self._take_names()
            labels, marks = None, fitted["indicator"]
            if predictor.classes is not None:
                labels = Labels(np.asarray(predictor.classes), marks, exclusive=not marks)
            self._targets = self._targets_for(labels).in_units_of(predictor.loss_function)
            self.n_outputs_ = self._model.layers[-1].n_out
        return self

    # --- What the subclasses define.

    @abstractmethod
    def _check_targets(self, y: Any) -> tuple[Labels | None, Any]:
        """Return the labels of y, for a classification, and y after a check."""

    @abstractmethod
    def _labels_and_numbers(self, targets: Array) -> tuple[Array | None, Array]:
        """Return what folds keep the shares of, and what categories are coded by, (n_rows, n)."""

    @abstractmethod
    def _calibrate(self, members: list[Sequential], outputs: Array, rows: Rows) -> None:
        """Pack the members, and learn from outputs for rows held out how sure they are."""

    # --- Parts of both.

    def _targets_for(self, labels: Labels | None) -> Targets:
        if labels is None:
            return Targets.of_numbers({"name": "mse", "scale_targets": True})
        self.classes_ = labels.classes
        if not labels.exclusive:
            return ClassTargets.of(labels, "log_loss", LABEL_SMOOTHING)
        loss = {"name": "softmax_cross_entropy", "label_smoothing": LABEL_SMOOTHING}
        return ClassTargets.of(labels, loss, 0.0)

    def _explained(self, chosen: Array) -> tuple[Array, Array]:
        """Return what outputs are multiplied with, and what is added, where they are explained.

        chosen: 1 at the chosen output of each row, else 0, (n_samples, n_outputs).
        """
        loss_function = self._targets.loss_function
        if isinstance(loss_function, ScaledLoss):
            return chosen * loss_function.scale, (chosen * loss_function.center).sum(axis=1)
        exclusive = self.n_outputs_ > 1 and not self._targets.indicator
        return chosen - (1 / self.n_outputs_ if exclusive else 0.0), np.zeros(len(chosen))

    @property
    def conformal_scores(self) -> Array:
        """What `minidl.conformal` reads."""
        return np.asarray(self.conformal_scores_)

    def _take_names(self) -> None:
        self.n_features_in_ = self.encoder_.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(self.encoder_, "feature_names_in_"):
            self.feature_names_in_ = self.encoder_.feature_names_in_

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        codes = self.encoder_.encode(X)
        found = predict_outputs(self._model, codes, transform=self.encoder_.features_.transform)
        return found.astype(np.float64)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        return tags
