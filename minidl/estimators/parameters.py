"""The parameters of both estimators: defaults, ranges, configs, and their documentation, once."""

import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import sklearn.neural_network as theirs
from pydantic import ValidationError
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils._param_validation import Interval, StrOptions

from minidl.config import Config, load_config
from minidl.errors import ConfigError
from minidl.estimators.notation import OPTIONS, hidden_layers, optimizer_options, reasons
from minidl.layers.activations import ACTIVATIONS
from minidl.reprs import plain

Class = TypeVar("Class", bound=type)
# Parameters that are settings of a config's `train`, and their names there.
TRAIN = {
    "max_iter": "epochs",
    "batch_size": "batch_size",
    "clip_grad_norm": "clip_grad_norm",
    "ema": "ema",
}


@dataclass(eq=False, repr=False)
class Parameters(BaseEstimator):  # type: ignore[misc]
    """What can be set on both estimators, documented in `PARAMETERS` below."""

    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: int | np.random.RandomState | None = None
    tol: float = 1e-4
    verbose: bool | int = False
    warm_start: bool | str = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    layers: Sequence[Any] | None = None
    dropout: float = 0.0
    weight_decay: float | None = None
    schedule: str | Mapping[str, Any] | None = None
    clip_grad_norm: float | None = None
    ema: float | None = None
    progress: bool = False

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **theirs.MLPClassifier._parameter_constraints,
        "activation": [StrOptions({"logistic", *ACTIVATIONS})],
        "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"})],
        "warm_start": ["boolean", StrOptions({"exact"})],
        "layers": [list, tuple, None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "schedule": [str, dict, None],
        "clip_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema": [Interval(Real, 0, 1, closed="neither"), None],
        "progress": ["boolean"],
        "loss": [str, dict],
    }

    @classmethod
    def from_config(cls, config: Config | str | os.PathLike[str]) -> Self:
        """Return an unfitted estimator with the model, loss and training of a config.

        config: path of a YAML file, or what `load_config` returns. Its data section says nothing
        about the estimator: put its preprocessing in front, in a Pipeline. With early stopping, its
        validation share is split off from what `fit` is given, and the accuracy or R**2 there is
        watched, whatever `train.monitor` says. The dtype is that of the data.
        Raises ConfigError for a config that is wrong, or asks for what the estimators do not have.
        """
        config = config if isinstance(config, Config) else load_config(config)
        train, stopping = config.train, config.train.early_stopping
        name, options = train.optimizer.name, train.optimizer.options
        multipliers = set(train.learning_rate_multipliers.model_dump().values())
        short = stopping is not None and stopping.patience < 2
        count = stopping is not None and config.data.validation >= 1
        for path, wrong, reason in (
            ("train.clip_grad_value", train.clip_grad_value is not None, "have no such parameter"),
            ("train.max_norm", train.max_norm is not None, "have no such parameter"),
            ("train.mixup", train.mixup is not None, "have no such parameter"),
            ("train.learning_rate_multipliers", multipliers != {1.0}, "have none"),
            ("train.optimizer", name not in ("sgd", "adam", "adamw"), f"have no solver {name!r}"),
            ("train.early_stopping.patience", short, "wait 2 epochs at least"),
            ("data.validation", count, "take a share of the rows, below 1"),
        ):
            if wrong:
                raise config.error(path, f"the estimators {reason}")
        if config.data.augmentation:
            warnings.warn("data.augmentation is left out: rows are taken as they are", stacklevel=2)
        if config.evaluation.shifts:
            warnings.warn(
                "evaluation.shifts is left out: rows are measured as they are", stacklevel=2
            )
        parameters: dict[str, Any] = {
            "layers": [choice.spec for choice in config.model],
            "loss": config.loss.spec,
            "random_state": config.seed,
            "schedule": train.schedule.spec,
            "solver": name,
            **{ours: getattr(train, theirs) for ours, theirs in TRAIN.items()},
            **{ours: options[theirs] for ours, theirs in OPTIONS.items() if theirs in options},
        }
        if stopping is None:
            parameters["n_iter_no_change"] = math.inf
        else:
            parameters |= {
                "early_stopping": True,
                "n_iter_no_change": stopping.patience - 1,
                "tol": stopping.min_delta,
                "validation_fraction": config.data.validation,
            }
        return cls(**parameters)

    def to_config(self, data: str | Mapping[str, Any] = "digits") -> Config:
        """Return the config that trains this model in this way on a named data set.

        data: the name of a data set, or the data section as in a file.  A config trains all its
        epochs where the estimator, without early_stopping, ends when the training loss no longer
        falls.  Raises ConfigError for what a config cannot express, such as solver="lbfgs".
        """
        for key, refused in (
            ("solver", self.solver == "lbfgs"),
            ("learning_rate", self.learning_rate != "constant"),
            ("shuffle", not self.shuffle),
            ("class_weight", getattr(self, "class_weight", None) is not None),
            ("random_state", not isinstance(self.random_state, Integral | None)),
        ):
            if refused:
                raise ConfigError(f"{key}={getattr(self, key)!r} cannot be expressed in a config")
        section: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data)
        train: dict[str, Any] = {theirs: getattr(self, ours) for ours, theirs in TRAIN.items()}
        if isinstance(self.batch_size, str):
            train["batch_size"] = 200
        optimizer = {"name": self.solver, **optimizer_options(self)}
        if self.solver != "adamw":
            optimizer.setdefault("weight_decay", self.alpha / train["batch_size"])
        train |= {"optimizer": optimizer, "schedule": self.schedule or "constant"}
        loss, monitor = self.loss, "accuracy"
        if loss == "log_loss":
            loss = {"name": "softmax_cross_entropy", "label_smoothing": self.label_smoothing}
        elif not is_classifier(self):
            monitor = "r2" if loss in ("squared_error", "poisson") else "loss"
            loss = "mse" if loss == "squared_error" else loss
        if self.early_stopping:
            section.setdefault("validation", self.validation_fraction)
            train["monitor"] = monitor
            if np.isfinite(self.n_iter_no_change):
                patience = self.n_iter_no_change + 1
                train["early_stopping"] = {"patience": patience, "min_delta": self.tol}
        if hasattr(self, "coefs_"):
            train["dtype"] = self.coefs_[0].dtype.name
        values = {
            "name": type(self).__name__,
            "seed": self.random_state or 0,
            "data": section,
            "model": list(self.layers or hidden_layers(self)),
            "loss": loss,
            "train": train,
        }
        try:
            return Config.model_validate(plain(values), context={"folder": os.getcwd()})
        except ValidationError as error:
            raise ConfigError("\n".join(reasons(error))) from None

    @property
    def _l2(self) -> float:
        """The L2 penalty of the loss; its pull is this, divided by the weight of the batch."""
        return self.alpha if self.weight_decay is None and self.solver != "adamw" else 0.0


PARAMETERS = """\
hidden_layer_sizes : int or array-like of int, default=(100,)
    Units of each hidden layer.
activation : str, default='relu'
    'identity', 'logistic', 'tanh', 'relu', or any other activation of a config.
solver : {'adam', 'sgd', 'lbfgs', 'adamw'}, default='adam'
    Stochastic steps over batches, or L-BFGS over all rows at once: good for small data, and
    without dropout, batch normalization, or the parameters marked "stochastic" below.
alpha : float, default=0.0001
    L2 penalty: alpha / 2 * (sum of squared weights), divided by the rows of the batch, so its
    strength depends on `batch_size`. Not used where `weight_decay` is given, nor by 'adamw'.
batch_size : int or 'auto', default='auto'
    Rows in a step; 'auto' is min(200, n_samples). Stochastic.
learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
    For 'sgd': as it is; divided by t**power_t, t the rows seen; or divided by 5 whenever training
    would have stopped, down to 1e-6.
learning_rate_init : float, default=0.001
    Learning rate at the start. Stochastic.
power_t : float, default=0.5
    Exponent for learning_rate='invscaling'.
max_iter : int, default=200
    Largest number of epochs, or of iterations of L-BFGS.
shuffle : bool, default=True
    Whether each epoch takes the rows in another order. Stochastic.
random_state : int, RandomState instance or None, default=None
    First weights, row order and validation split. The same number gives the same model, and for
    the parameters that scikit-learn has, scikit-learn's model up to rounding.
tol : float, default=1e-4
    Improvement of the loss, or with `early_stopping` of the validation score, that an epoch must
    bring to count. For 'lbfgs' the largest component of the gradient at which it ends.
verbose : bool or int, default=False
    Whether to print a line an epoch.
warm_start : bool or 'exact', default=False
    Whether `fit` goes on with the weights that there are. True begins with a new optimizer and the
    seed again, as scikit-learn does. With 'exact' everything goes on: at a constant rate 10 epochs
    and 10 more are the same bits as 20; the data must be the same (for 'lbfgs' like True).
momentum : float, default=0.9
    Momentum of 'sgd', in [0, 1).
nesterovs_momentum : bool, default=True
    Whether that is Nesterov's.
early_stopping : bool, default=False
    Whether to split off `validation_fraction` of the rows (or to use `X_val` of `fit`), to stop
    when the score on them no longer improves, and to keep the best weights. Stochastic.
validation_fraction : float, default=0.1
    Share of the rows for `early_stopping`.
beta_1, beta_2 : float, default=0.9, 0.999
    Decay of the running averages of 'adam' and 'adamw', in [0, 1).
epsilon : float, default=1e-8
    Keeps their division finite.
n_iter_no_change : int or inf, default=10
    Epochs without an improvement by `tol` after which training stops. Stochastic.
max_fun : int, default=15000
    Largest number of evaluations of the loss by 'lbfgs'.
layers : list or None, default=None
    The layers in the notation of a config's `model`, such as `[{"linear": 64}, "batch_norm",
    "gelu", {"dropout": 0.1}, {"linear": "auto"}]`, in place of `hidden_layer_sizes`, `activation`
    and `dropout`.
dropout : float, default=0.0
    Probability, in [0, 1), with which each hidden unit is left out of a training step. Stochastic.
weight_decay : float or None, default=None
    L2 penalty weight_decay / 2 * (sum of squared weights) on the mean loss, in place of `alpha`;
    it does not depend on the size of batches. For 'adamw' the decoupled decay; None is 0.01.
schedule : str, dict or None, default=None
    Course of the learning rate over `max_iter` epochs, in the notation of a config: "cosine",
    `{"one_cycle": {"peak": 0.3}}`. Then `tol` ends training only with `early_stopping`.
    Stochastic.
clip_grad_norm : float or None, default=None
    The gradient is scaled down to this norm where it is longer. Stochastic.
ema : float or None, default=None
    Decay, in (0, 1), of the running average of the weights that is validated and kept in their
    place. Stochastic; not for `partial_fit`.
progress : bool, default=False
    Whether to show a bar."""


ATTRIBUTES = """\
coefs_, intercepts_ : list of ndarray
    W, (n_in, n_out), and b, (n_out,), of each linear layer: live views into the model. Arrays that
    are put into the lists are copied into the model before it is used.
history_ : list of dict
    A record an epoch: "epoch", "learning_rate", "train_loss"; with validation "validation_loss" and
    each metric of it; with `X_val` also each metric of the training rows, the first 5,000.
    `pandas.DataFrame(history_)` is a table of it.
loss_ : float
    Loss of the last epoch, penalty included.
best_loss_ : float or None
    Lowest loss; None with early stopping. Stochastic solvers, as the next three.
loss_curve_ : list of float
    Loss of each epoch.
validation_scores_ : list of float or None
    Score of each epoch on the validation rows.
best_validation_score_ : float or None
    The highest of them.
n_iter_ : int
    Epochs or iterations of the last call.
t_ : int
    Rows seen by a stochastic solver, over all calls.
n_features_in_, feature_names_in_ : int, ndarray of str
    The columns of X; names only where X has them.
n_layers_, n_outputs_ : int
    Linear layers plus one; columns of the output.
out_activation_ : str
    What is applied to the outputs: 'softmax', 'logistic', 'identity' or 'exp'. It is missing with
    `layers`: emlearn, which would take them for layers of `activation`, then stops at it."""


NOTES = """\
What differs from scikit-learn's estimators of the same name:

- The loss is computed from the outputs and is exact. scikit-learn clips probabilities in the loss,
  so that on features that are not scaled, where probabilities come near 0 or 1, losses and with
  them the epoch at which training stops differ. Scale the features.
- Training that diverges raises ValueError at once and leaves the estimator as it was; with
  validation rows, after a first epoch, it is a warning and the best weights are kept.
- With `warm_start=True` and `early_stopping`, the best weights of the earlier fit are kept until
  they are beaten; scikit-learn goes on training in them.
- `fit` takes `sample_weight` with every supported scikit-learn.
- With several targets, `loss_` of 'squared_error' holds the L2 penalty divided by their number;
  'lbfgs' minimises the sum over targets that its gradient belongs to.
- With 'lbfgs' and float32 data, the model stays float32, and `verbose` prints a line an iteration.
- For one class, `predict_proba` has one column. `momentum=1` is refused.
- Labels in nullable and Arrow-backed columns keep their kind: whole numbers stay whole numbers.
- As in scikit-learn, the columns of a frame must stand in the order of the training data;
  `minidl.load` and the estimators of `minidl.tabular` take them by name.

What cannot keep the whole of scikit-learn's contract: `dropout` and batch normalization (a weight
of 2 is not a row given twice), `warm_start` (a second fit is meant to differ), `early_stopping` on
a handful of rows, `partial_fit` with `ema` or `schedule` (there is none), and the classifier with
'lbfgs', whose probabilities may round to 1 (scikit-learn's fails the same check)."""


def documented(*parts: str) -> Callable[[Class], Class]:
    """Return a decorator that puts a shared part in the place of each "<shared>" of a docstring."""

    def filled(kind: Class) -> Class:
        first, *others = inspect.cleandoc(kind.__doc__ or "").split("<shared>")
        pairs = zip(parts, others, strict=True)
        kind.__doc__ = first + "".join(part + text for part, text in pairs)
        return kind

    return filled
