"""Between estimators and configs: the parameters of the one in the words of the other."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from pydantic import ValidationError
from sklearn.base import is_classifier

from minidl.config import Config
from minidl.errors import ConfigError
from minidl.estimators.building import (
    OPTIONS,
    hidden_sizes,
    layer_name,
    optimizer_options,
    reasons,
    without_numpy,
)

# Parameters that are settings of a config's `train`, and their names there.
TRAIN = {
    "max_iter": "epochs",
    "batch_size": "batch_size",
    "clip_grad_norm": "clip_grad_norm",
    "ema": "ema",
}


def parameters_from(config: Config) -> dict[str, Any]:
    """Return the parameters that make an estimator train as the config says.

    Raises ConfigError for what the estimators do not have. What is said of data, files and threads
    says nothing about an estimator and is left out.
    """
    train, optimizer, stopping = config.train, config.train.optimizer, config.train.early_stopping
    multipliers = train.learning_rate_multipliers.model_dump().values()
    refused = {
        "train.clip_grad_value": (train.clip_grad_value is not None, "have no such parameter"),
        "train.max_norm": (train.max_norm is not None, "have no such parameter"),
        "train.mixup": (train.mixup is not None, "have no such parameter"),
        "train.learning_rate_multipliers": (set(multipliers) != {1.0}, "have none"),
        "train.optimizer": (
            optimizer.name not in ("sgd", "adam", "adamw"),
            f"have no solver {optimizer.name!r}",
        ),
    }
    if stopping is not None:
        short, count = stopping.patience < 2, config.data.validation >= 1
        refused["train.early_stopping.patience"] = (short, "wait 2 epochs at least")
        refused["data.validation"] = (count, "take a share of the rows, below 1")
    for path, (wrong, reason) in refused.items():
        if wrong:
            raise config.error(path, f"the estimators {reason}")
    if config.data.augmentation:
        warnings.warn("data.augmentation is left out: rows are taken as they are", stacklevel=3)
    if config.evaluation.shifts:
        warnings.warn("evaluation.shifts is left out: rows are measured as they are", stacklevel=3)
    options = optimizer.options
    parameters: dict[str, Any] = {
        "layers": [choice.spec for choice in config.model],
        "loss": config.loss.spec,
        "random_state": config.seed,
        "schedule": train.schedule.spec,
        "solver": optimizer.name,
        **{ours: getattr(train, theirs) for ours, theirs in TRAIN.items()},
        **{ours: options[theirs] for ours, theirs in OPTIONS.items() if theirs in options},
    }
    if stopping is None:
        return {**parameters, "n_iter_no_change": math.inf}
    return {
        **parameters,
        "early_stopping": True,
        "n_iter_no_change": stopping.patience - 1,
        "tol": stopping.min_delta,
        "validation_fraction": config.data.validation,
    }


def config_of(parameters: Any, data: str | Mapping[str, Any]) -> Config:
    """Return the config that trains a model of an estimator's parameters on a named data set.

    Raises ConfigError for what a config cannot express.
    """
    p = parameters
    for key, refused in (
        ("solver", p.solver == "lbfgs"),
        ("learning_rate", p.learning_rate != "constant"),
        ("shuffle", not p.shuffle),
        ("class_weight", getattr(p, "class_weight", None) is not None),
        ("random_state", not isinstance(p.random_state, Integral | None)),
    ):
        if refused:
            raise ConfigError(f"{key}={getattr(p, key)!r} cannot be expressed in a config")
    section: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data)
    train: dict[str, Any] = {theirs: getattr(p, ours) for ours, theirs in TRAIN.items()}
    if isinstance(p.batch_size, str):
        train["batch_size"] = 200
    optimizer = {"name": p.solver, **optimizer_options(p)}
    if p.solver != "adamw":
        optimizer.setdefault("weight_decay", p.alpha / train["batch_size"])
    train |= {"optimizer": optimizer, "schedule": p.schedule or "constant"}
    loss, monitor = p.loss, "accuracy"
    if loss == "log_loss":
        loss = {"name": "softmax_cross_entropy", "label_smoothing": p.label_smoothing}
    elif not is_classifier(p):
        monitor = "r2" if loss in ("squared_error", "poisson") else "loss"
        loss = "mse" if loss == "squared_error" else loss
    if p.early_stopping:
        section.setdefault("validation", p.validation_fraction)
        train["monitor"] = monitor
        if np.isfinite(p.n_iter_no_change):
            patience = p.n_iter_no_change + 1
            train["early_stopping"] = {"patience": patience, "min_delta": p.tol}
    if hasattr(p, "coefs_"):
        train["dtype"] = p.coefs_[0].dtype.name
    values = {
        "name": type(p).__name__,
        "seed": p.random_state or 0,
        "data": section,
        "model": list(p.layers or _hidden_layers(p)),
        "loss": loss,
        "train": train,
    }
    try:
        return Config.model_validate(without_numpy(values), context={"folder": os.getcwd()})
    except ValidationError as error:
        raise ConfigError("\n".join(reasons(error))) from None


def _hidden_layers(p: Any) -> list[Any]:
    layers: list[Any] = []
    for n_out in hidden_sizes(p.hidden_layer_sizes):
        layers += [{"linear": {"n_out": n_out, "init": "glorot_uniform"}}, layer_name(p.activation)]
        if p.dropout:
            layers.append({"dropout": p.dropout})
    return [*layers, {"linear": {"n_out": "auto", "init": "glorot_uniform"}}]
