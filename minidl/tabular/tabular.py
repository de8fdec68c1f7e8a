"""What both estimators do: fit, predict, explain, save and load, in reading order."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted

from minidl.data.batches import Rows
from minidl.data.preprocessing.features import TableFeatures
from minidl.errors import require
from minidl.estimators.files import InFiles
from minidl.estimators.targets import Classes, Targets, plain_targets, targets_of
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.losses.loss import columns as as_columns
from minidl.losses.regression import ScaledLoss
from minidl.predictor import Predictor
from minidl.tabular.encoder import TableEncoder
from minidl.tabular.explanation import Explanation, integrated_gradients
from minidl.tabular.members import folds_of, train_members

LABEL_SMOOTHING = 0.1
MOST_MEANS = 10  # classes by whose shares a category of many labels is coded

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
class Tabular(InFiles):
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
        X : data frame (pandas, polars, pyarrow) or array-like of shape (n_samples, n_features)
            The raw table; values may be missing. Predictions take the columns of a frame by name
            and ignore others.
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
        encoder = TableEncoder(columns=self.columns, missing=self.missing)
        codes = encoder.fit_codes(X)
        targets, y = self._targets_of(plain_targets(y))
        targets = self._with_loss(targets)
        check_consistent_length(codes, y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, codes)
        rows = Rows(codes, targets.encode(y, np.float64), sample_weight)
        rows = targets.weighted(rows, getattr(self, "class_weight", None))
        if rows.sample_weight is not None:
            rows = rows.select(rows.sample_weight > 0)
        self._targets = targets.fitted(rows.y)
        self.n_outputs_ = n = targets.count_outputs(rows.y)
        strata, numbers = None, as_columns(rows.y, np.float64)
        if rows.y.dtype.kind == "i":  # one of several classes
            strata, numbers = rows.y, np.eye(n)[rows.y][:, int(n == 2) : MOST_MEANS]
        seeds = np.random.SeedSequence(check_random_state(self.random_state).randint(2**31 - 1))
        rng = np.random.default_rng(seeds.spawn(1)[0])
        folds = folds_of(strata, len(rows.y), self.n_members, rng)
        inputs = encoder.features_.fit_out_of_fold(rows.X, numbers, folds)
        members, outputs = train_members(
            Rows(inputs, rows.y, rows.sample_weight),
            self._targets.loss_function,
            n,
            folds,
            seeds=seeds.spawn(len(folds)),
            n_jobs=self.n_jobs,
            time_limit=self.time_limit,
            progress=self.progress,
        )
        self._take_encoder(encoder)
        self.n_members_ = len(members)
        self._center = inputs.mean(axis=0, dtype=np.float64)
        self._calibrate(members, outputs, rows)
        return self

    def explain(self, X: Any, output: int | None = None) -> Explanation:
        """Return what each column adds to the predictions, compared with the mean row.

        Integrated gradients from the mean of the training inputs: they add up to the output. For
        a regression that is the prediction. For a classification it is the score of a class: the
        logarithm of its probability, less the mean of those of all classes.

        output: place of the class in `classes_`, or of the target; by default the predicted class
        of each row, or the first target.
        """
        check_is_fitted(self)
        n, loss_function = self.n_outputs_, self._targets.loss_function
        require("output", output, output is None or 0 <= output < n, f"from 0 to {n - 1}")
        features = self.encoder_.features_
        inputs = features.transform(self.encoder_.encode(X))
        most = predict_outputs(self._model, inputs).argmax(axis=1) if is_classifier(self) else 0
        weights = np.eye(n)[np.full(len(inputs), most if output is None else output)]
        offset = np.zeros(len(inputs))
        if isinstance(loss_function, ScaledLoss):
            offset = (weights * loss_function.center).sum(axis=1)
            weights = weights * loss_function.scale
        elif n > 1 and not self._targets.indicator:
            weights = weights - 1 / n
        found, base, outputs = integrated_gradients(
            self._model, self.n_members_, inputs, self._center, weights
        )
        names = tuple(column.name for column in self.encoder_.schema_.columns)
        used = np.array([names.index(name) for name in self.encoder_.schema_.names])
        values = np.zeros((len(names), len(inputs)))
        np.add.at(values, used[features.sources], found.T)
        return Explanation(values.T, base + offset, outputs + offset, names)

    def predictor(self) -> Predictor:
        """Return the fitted model as `minidl.load` returns it: to predict, save or export."""
        check_is_fitted(self)
        schema = self.encoder_.schema_
        return Predictor(
            self._model,
            self._targets.plain_loss,
            self.encoder_.features_,
            len(schema.used),
            getattr(self, "classes_", None),
            schema.names,
            conformal_scores=self.conformal_scores_,
        )

    @property
    def conformal_scores(self) -> Array:
        """What `minidl.conformal` reads."""
        return np.asarray(self.conformal_scores_)

    def _fitted(self) -> dict[str, Any]:
        return {
            "n_members": self.n_members_,
            "indicator": self._targets.indicator,
            "center": self._center,
            "positional": not hasattr(self, "feature_names_in_"),
        }

    def _take(self, predictor: Predictor, fitted: dict[str, Any]) -> None:
        features, scores = predictor.preprocessing, predictor.conformal_scores
        if scores is None or not isinstance(features, TableFeatures):
            raise ValueError("it is not of a raw table, or holds no conformal scores")
        self._model, self.n_members_ = predictor.model, fitted["n_members"]
        self._center = np.asarray(fitted["center"], np.float64)
        self.conformal_scores_ = scores
        encoder = TableEncoder(missing=features.schema.missing)
        self._take_encoder(encoder.take(features, positional=fitted["positional"]))
        self._targets = self._with_loss(targets_of(predictor, fitted["indicator"]))
        self.n_outputs_ = self._model.output_size(features.n_out)

    def _with_loss(self, targets: Targets) -> Targets:
        if not isinstance(targets, Classes):
            return targets.trained_by({"name": "mse", "scale_targets": True})
        self.classes_ = targets.classes
        if targets.indicator:
            return targets.trained_by("log_loss", LABEL_SMOOTHING)
        name = "softmax_cross_entropy"
        return targets.trained_by({"name": name, "label_smoothing": LABEL_SMOOTHING})

    def _take_encoder(self, encoder: TableEncoder) -> None:
        self.encoder_, self.n_features_in_ = encoder, encoder.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(encoder, "feature_names_in_"):
            self.feature_names_in_ = encoder.feature_names_in_

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        codes = self.encoder_.encode(X)
        found = predict_outputs(self._model, codes, transform=self.encoder_.features_.transform)
        return found.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        return tags
