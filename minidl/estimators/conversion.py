"""Between estimators, configs and files: parameters of the one in the words of the other."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from minidl.archive import read_archive
from minidl.config import Choice, Config
from minidl.data.preprocessing import SmoothClip, Unchanged
from minidl.errors import CheckpointError, ConfigError
from minidl.estimators.losses import HalfSquaredError, SummedPoisson
from minidl.estimators.presets import hand_over, plain
from minidl.losses import MSE, Loss, Poisson
from minidl.predictor import KIND, VERSION, Predictor, load

if TYPE_CHECKING:
    from minidl.estimators.perceptron import Perceptron

# What a config can say and an estimator cannot, each with the value that says nothing.
UNKNOWN_TO_ESTIMATORS = {
    "clip_grad_value": None,
    "max_norm": None,
    "mixup": None,
}
CURVES = (
    "n_iter_ t_ loss_ loss_curve_ best_loss_ validation_scores_ best_validation_score_ history_"
).split()


def parameters_from(config: Config) -> dict[str, Any]:
    """Return the parameters that make an estimator train as the config says.

    Raises ConfigError for what the estimators do not have. What is said of data, files and threads
    says nothing about an estimator and is left out.
    """
    train = config.train
    for name, neutral in UNKNOWN_TO_ESTIMATORS.items():
        if getattr(train, name) != neutral:
            raise config.error(f"train.{name}", "the estimators have no such parameter")
    if set(train.learning_rate_multipliers.model_dump().values()) != {1.0}:
        raise config.error("train.learning_rate_multipliers", "the estimators have none")
    if config.data.augmentation:
        warnings.warn("data.augmentation is left out: rows are taken as they are", stacklevel=3)
    if config.evaluation.shifts:
        warnings.warn("evaluation.shifts is left out: rows are measured as they are", stacklevel=3)
    parameters: dict[str, Any] = {
        "layers": [in_words(choice) for choice in config.model],
        "loss": in_words(config.loss),
        "max_iter": train.epochs,
        "batch_size": train.batch_size,
        "random_state": config.seed,
        "schedule": in_words(train.schedule),
        "clip_grad_norm": train.clip_grad_norm,
        "ema": train.ema,
        **_solver_parameters(config),
    }
    if train.early_stopping is None:
        return {**parameters, "n_iter_no_change": math.inf}
    if train.early_stopping.patience < 2:
        raise config.error("train.early_stopping.patience", "the estimators wait 2 epochs at least")
    if config.data.validation >= 1:
        raise config.error("data.validation", "the estimators take a share of the rows, below 1")
    return {
        **parameters,
        "early_stopping": True,
        "n_iter_no_change": train.early_stopping.patience - 1,
        "tol": train.early_stopping.min_delta,
        "validation_fraction": config.data.validation,
    }


def _solver_parameters(config: Config) -> dict[str, Any]:
    optimizer = config.train.optimizer
    options = dict(optimizer.options)
    parameters = {
        "solver": optimizer.name,
        "learning_rate_init": options.pop("learning_rate", 0.001),
        "weight_decay": options.pop("weight_decay", 0.0),
    }
    if optimizer.name == "sgd":
        parameters |= {
            "momentum": options.pop("momentum"),
            "nesterovs_momentum": options.pop("nesterov"),
        }
    elif optimizer.name in ("adam", "adamw"):
        parameters |= {
            "beta_1": options.pop("beta1"),
            "beta_2": options.pop("beta2"),
            "epsilon": options.pop("eps"),
        }
    else:
        raise config.error("train.optimizer", f"the estimators have no solver {optimizer.name!r}")
    return parameters


def config_of(estimator: Perceptron, data: str | Mapping[str, Any]) -> Config:
    """Return the config that trains the same model in the same way on a named data set.

    A config trains all its epochs where the estimator, without early_stopping, ends when the
    training loss stays the same. Raises ConfigError for what a config cannot say.
    """
    rate = estimator.learning_rate
    for name, value, neutral in (
        ("solver", estimator.solver == "lbfgs", False),
        ("learning_rate", rate, "constant"),
        ("shuffle", estimator.shuffle, True),
        ("class_weight", getattr(estimator, "class_weight", None) is None, True),
        ("random_state", isinstance(estimator.random_state, Integral | None), True),
    ):
        if value != neutral:
            raise ConfigError(f"{name}={getattr(estimator, name)!r} has no words in a config")
    section: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data)
    batch_size = 200 if isinstance(estimator.batch_size, str) else estimator.batch_size
    decay = estimator._l2 / batch_size if estimator.weight_decay is None else estimator.weight_decay
    optimizer: dict[str, Any] = {
        "name": estimator.solver,
        "learning_rate": float(estimator.learning_rate_init),
    }
    if estimator.solver != "adamw" or estimator.weight_decay is not None:
        optimizer["weight_decay"] = float(decay)
    if estimator.solver == "sgd":
        nesterov = estimator.nesterovs_momentum and estimator.momentum > 0
        optimizer |= {"momentum": float(estimator.momentum), "nesterov": nesterov}
    else:
        optimizer |= {
            "beta1": float(estimator.beta_1),
            "beta2": float(estimator.beta_2),
            "eps": float(estimator.epsilon),
        }
    train: dict[str, Any] = {
        "epochs": int(estimator.max_iter),
        "batch_size": int(batch_size),
        "optimizer": optimizer,
        "schedule": estimator.schedule or "constant",
        "clip_grad_norm": estimator.clip_grad_norm,
        "ema": estimator.ema,
    }
    if estimator.early_stopping:
        section.setdefault("validation", float(estimator.validation_fraction))
        train["monitor"] = estimator._score_name
        if np.isfinite(estimator.n_iter_no_change):
            patience = int(estimator.n_iter_no_change) + 1
            train["early_stopping"] = {"patience": patience, "min_delta": float(estimator.tol)}
    if hasattr(estimator, "_model"):
        train["dtype"] = estimator._model.dtype.name
    seed = estimator.random_state
    values = {
        "name": type(estimator).__name__,
        "seed": int(seed) if isinstance(seed, Integral) else 0,
        "data": section,
        "model": list(estimator.layers or _layers_in_words(estimator)),
        "loss": estimator._loss_in_words(),
        "train": train,
    }
    try:
        return Config.model_validate(values, context={"folder": os.getcwd()})
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, each['loc']))}: {each.get('ctx', {}).get('reason', each['msg'])}"
            for each in error.errors(include_url=False)
        )
        raise ConfigError("\n".join(wrong)) from None


def in_words(choice: Choice) -> dict[str, Any]:
    """The choice in the notation of a config, of plain lists and maps."""
    return {"name": choice.name, **{k: _plain(v) for k, v in choice.options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return in_words(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _layers_in_words(estimator: Perceptron) -> list[Any]:
    name = "sigmoid" if estimator.activation == "logistic" else estimator.activation
    words: list[Any] = []
    for size in np.atleast_1d(estimator.hidden_layer_sizes):
        words += [{"linear": {"n_out": int(size), "init": "glorot_uniform"}}, name]
        if estimator.dropout:
            words.append({"dropout": float(estimator.dropout)})
    return [*words, {"linear": {"n_out": "auto", "init": "glorot_uniform"}}]


def save(estimator: Perceptron, path: str | os.PathLike[str]) -> None:
    """Write the fitted estimator as a model file."""
    classes = getattr(estimator, "classes_", None)
    names = getattr(estimator, "feature_names_in_", None)
    predictor = Predictor(
        estimator._model,
        _registered(estimator._loss_function),
        estimator._table or Unchanged().fit(np.zeros((1, estimator.n_features_in_))),
        estimator.n_features_in_,
        None if classes is None else classes.tolist(),
        None if names is None else names.tolist(),
    )
    parameters = {name: _stored(value) for name, value in estimator.get_params().items()}
    figures = {name: _stored(getattr(estimator, name, None)) for name in CURVES}
    kind = type(estimator).__name__
    predictor.save(path, {"kind": kind, "parameters": parameters, "fitted": figures})


def load_into(kind: type[Perceptron], path: str | os.PathLike[str]) -> Any:
    """Return the estimator that `save` wrote. Raises CheckpointError."""
    predictor = load(path)
    _, document = read_archive(Path(path), kind=KIND, newest_version=VERSION)
    notes = document.get("notes")
    if not isinstance(notes, dict) or notes.get("kind") != kind.__name__:
        raise CheckpointError(f"{path}: not saved by {kind.__name__}.save; read it by minidl.load")
    try:
        parameters = {name: _restored(value) for name, value in notes["parameters"].items()}
        estimator = kind(**parameters)
        estimator._validate_params()
        estimator._model = predictor.model
        estimator.n_features_in_ = predictor.n_features
        if predictor.feature_names is not None:
            estimator.feature_names_in_ = np.asarray(predictor.feature_names, dtype=object)
        for name in CURVES:
            value = _restored(notes["fitted"][name])
            if value is not None or name.startswith(("best", "validation")):
                setattr(estimator, name, value)
        estimator._no_improvement_count = 0
        estimator.n_outputs_ = predictor.model.forward(
            np.zeros((1, predictor.preprocessing.n_out), predictor.model.dtype), train=False
        ).shape[1]
        estimator._restore_targets(predictor)
        if estimator.preset is not None:
            estimator._table = SmoothClip().restore(predictor.preprocessing.state())
        inner = plain(estimator)
        hand_over(estimator, inner)
        estimator._loss_function = inner._make_loss().in_units_of(predictor.loss_function)
        estimator.out_activation_ = inner.out_activation_
        estimator._list_weights()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a usable estimator: {error}") from error
    return estimator


def _registered(loss_function: Loss) -> Loss:
    """The loss function of the registry that predicts the same."""
    if isinstance(loss_function, HalfSquaredError):
        return MSE()
    return Poisson() if isinstance(loss_function, SummedPoisson) else loss_function


def _stored(value: Any) -> Any:
    """A parameter or figure as JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {"pairs": [[_stored(k), _stored(v)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_stored(v) for v in value]}
    return value if isinstance(value, bool | int | float | str | None) else None


def _restored(value: Any) -> Any:
    """What `_stored` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float(inner)
    if kind == "pairs":
        return {_restored(k): _restored(v) for k, v in inner}
    return tuple(map(_restored, inner)) if kind == "tuple" else [_restored(v) for v in inner]
