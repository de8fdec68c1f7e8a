"""Between estimators, configs and files: parameters of the one in the words of the other."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from types import SimpleNamespace
from typing import Any

import numpy as np
from pydantic import ValidationError

from minidl.config import Config
from minidl.data.preprocessing import Preprocessing, Unchanged
from minidl.errors import CheckpointError, ConfigError
from minidl.estimators.building import without_numpy
from minidl.estimators.losses import HalfSquaredError, SummedPoisson
from minidl.kernels import Array
from minidl.losses import MSE, Loss, Poisson
from minidl.model import Sequential
from minidl.predictor import Predictor, load

# What a config can say and an estimator cannot, each with the value that says nothing.
UNKNOWN_TO_ESTIMATORS = {
    "clip_grad_value": None,
    "max_norm": None,
    "mixup": None,
}


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
        "layers": [choice.spec for choice in config.model],
        "loss": config.loss.spec,
        "max_iter": train.epochs,
        "batch_size": train.batch_size,
        "random_state": config.seed,
        "schedule": train.schedule.spec,
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


def config_of(
    parameters: Mapping[str, Any],
    data: str | Mapping[str, Any],
    *,
    name: str,
    monitor: str,
    dtype: str | None = None,
) -> Config:
    """Return the config that trains a model of these parameters on a named data set.

    parameters: an estimator's, with its L2 penalty as `alpha` and its loss in the notation of a
    config.  monitor: the metric by which epochs are compared.  dtype: of the model.
    Raises ConfigError for what a config cannot express.
    """
    p = SimpleNamespace(**parameters)
    for key, refused in (
        ("solver", p.solver == "lbfgs"),
        ("learning_rate", p.learning_rate != "constant"),
        ("shuffle", not p.shuffle),
        ("class_weight", parameters.get("class_weight") is not None),
        ("random_state", not isinstance(p.random_state, Integral | None)),
    ):
        if refused:
            raise ConfigError(f"{key}={parameters[key]!r} cannot be expressed in a config")
    section: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data)
    batch_size = 200 if isinstance(p.batch_size, str) else int(p.batch_size)
    optimizer: dict[str, Any] = {
        "name": p.solver,
        "learning_rate": float(p.learning_rate_init),
    }
    if p.solver != "adamw" or p.weight_decay is not None:
        decay = p.alpha / batch_size if p.weight_decay is None else p.weight_decay
        optimizer["weight_decay"] = float(decay)
    if p.solver == "sgd":
        nesterov = p.nesterovs_momentum and p.momentum > 0
        optimizer |= {"momentum": float(p.momentum), "nesterov": bool(nesterov)}
    else:
        optimizer |= {
            "beta1": float(p.beta_1),
            "beta2": float(p.beta_2),
            "eps": float(p.epsilon),
        }
    train: dict[str, Any] = {
        "epochs": int(p.max_iter),
        "batch_size": batch_size,
        "optimizer": optimizer,
        "schedule": p.schedule or "constant",
        "clip_grad_norm": p.clip_grad_norm,
        "ema": p.ema,
    }
    if p.early_stopping:
        section.setdefault("validation", float(p.validation_fraction))
        train["monitor"] = monitor
        if np.isfinite(p.n_iter_no_change):
            patience = int(p.n_iter_no_change) + 1
            train["early_stopping"] = {"patience": patience, "min_delta": float(p.tol)}
    if dtype is not None:
        train["dtype"] = dtype
    values = {
        "name": name,
        "seed": int(p.random_state or 0),
        "data": section,
        "model": list(p.layers or _hidden_layers(p)),
        "loss": p.loss,
        "train": train,
    }
    try:
        return Config.model_validate(without_numpy(values), context={"folder": os.getcwd()})
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, each['loc']))}: {each.get('ctx', {}).get('reason', each['msg'])}"
            for each in error.errors(include_url=False)
        )
        raise ConfigError("\n".join(wrong)) from None


def _hidden_layers(p: SimpleNamespace) -> list[Any]:
    name = "sigmoid" if p.activation == "logistic" else p.activation
    layers: list[Any] = []
    for size in np.atleast_1d(p.hidden_layer_sizes):
        layers += [{"linear": {"n_out": int(size), "init": "glorot_uniform"}}, name]
        if p.dropout:
            layers.append({"dropout": float(p.dropout)})
    return [*layers, {"linear": {"n_out": "auto", "init": "glorot_uniform"}}]


def predictor_of(
    model: Sequential,
    loss_function: Loss,
    *,
    n_features: int,
    classes: Array | None,
    feature_names: Sequence[str] | None,
    preprocessing: Preprocessing | None = None,
    conformal_scores: Array | None = None,
) -> Predictor:
    """Return what a model file holds of an estimator."""
    if isinstance(loss_function, HalfSquaredError):
        loss_function = MSE()  # of the registry, with the same predictions
    elif isinstance(loss_function, SummedPoisson):
        loss_function = Poisson()
    return Predictor(
        model,
        loss_function,
        preprocessing or Unchanged().fit(np.zeros((1, n_features))),
        n_features,
        classes,
        None if feature_names is None else list(feature_names),
        conformal_scores=conformal_scores,
    )


def notes_of(kind: str, parameters: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model file says of an estimator beside the model, as JSON can hold it.

    kind: name of its class.  fitted: its attributes.
    Raises ValueError for a parameter that no file can hold.
    """
    stored = {}
    for name, value in parameters.items():
        try:
            stored[name] = _stored(value)
        except TypeError as error:
            raise ValueError(f"{name}={value!r} cannot be saved: {error}") from None
    return {
        "kind": kind,
        "parameters": stored,
        "fitted": {name: _stored(value) for name, value in fitted.items()},
    }


def read_notes(
    path: str | os.PathLike[str], kind: str
) -> tuple[Predictor, dict[str, Any], dict[str, Any]]:
    """Return the model in a file, the parameters and the fitted attributes of its estimator.

    Raises CheckpointError.
    """
    predictor = load(path)
    notes = predictor.notes
    if not isinstance(notes, dict) or notes.get("kind") != kind:
        raise CheckpointError(f"{path}: not saved by {kind}.save; read it by minidl.load")
    with usable(path):
        parameters = {name: _restored(value) for name, value in notes["parameters"].items()}
        fitted = {name: _restored(value) for name, value in notes["fitted"].items()}
        if parameters.pop("preset", None) is not None:
            raise ValueError("it has a preset, which is gone; read it by minidl.load")
    return predictor, parameters, fitted


@contextmanager
def usable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors over what a file says into CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a usable estimator: {error}") from error


def _stored(value: Any) -> Any:
    """A parameter or figure as JSON can hold it."""
    if isinstance(value, np.random.RandomState):
        return None  # the state of a generator is not kept
    value = without_numpy(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {"pairs": [[_stored(k), _stored(v)] for k, v in value.items()]}
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        if all(set(row) == set(value[0]) for row in value):  # a table, by its columns
            return {"table": {k: _stored([row[k] for row in value]) for k in value[0]}}
    if isinstance(value, list) and all(type(v) in (int, float) for v in value):
        return {"list": value}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_stored(v) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a file cannot hold a {type(value).__name__}")


def _restored(value: Any) -> Any:
    """What `_stored` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float(inner)
    if kind == "table":
        columns = {key: _restored(column) for key, column in inner.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind == "pairs":
        return {_restored(k): _restored(v) for k, v in inner}
    return tuple(map(_restored, inner)) if kind == "tuple" else [_restored(v) for v in inner]
