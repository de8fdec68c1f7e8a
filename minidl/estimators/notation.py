"""From an estimator's parameters to its model and optimizer, and to a config and back.

The notation of layers, losses and schedules is that of a config.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from numbers import Integral
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from sklearn.base import is_classifier

from minidl.config import Choice, Config
from minidl.config.settings import LAYER, LOSS, SCHEDULE
from minidl.errors import ConfigError
from minidl.layers.activations import ACTIVATIONS
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear
from minidl.layers.noise import Dropout
from minidl.model import Sequential
from minidl.optimizers import OPTIMIZERS
from minidl.reprs import plain
from minidl.specs import SpecError, build_layers

NOTATIONS: dict[str, TypeAdapter[Any]] = {
    "layers": TypeAdapter(tuple[Annotated[Choice, LAYER], ...]),
    "loss": TypeAdapter(Annotated[Choice, LOSS]),
    "schedule": TypeAdapter(Annotated[Choice, SCHEDULE]),
}
# Parameters that are options of an optimizer, and their names there.
OPTIONS = {
    "learning_rate_init": "learning_rate",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "nesterovs_momentum": "nesterov",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "epsilon": "eps",
}
# Parameters that are settings of a config's `train`, and their names there.
TRAIN = {
    "max_iter": "epochs",
    "batch_size": "batch_size",
    "clip_grad_norm": "clip_grad_norm",
    "ema": "ema",
}


def chosen(name: str, value: Any) -> Any:
    """Return the choices for the parameter of that name, in the notation of a config.

    Raises ValueError.
    """
    value = list(value) if isinstance(value, tuple) else value
    try:
        return NOTATIONS[name].validate_python(plain(value))
    except ValidationError as error:
        raise ValueError("; ".join(reasons(error, name))) from None


def reasons(error: ValidationError, *place: str) -> list[str]:
    """Return what is wrong, each with its place."""
    return [
        f"{'.'.join(map(str, (*place, *each['loc'])))}: "
        f"{each.get('ctx', {}).get('reason', each['msg'])}"
        for each in error.errors(include_url=False)
    ]


def make_model(
    p: Any, n_in: int, n_outputs: int, random_state: np.random.RandomState, dtype: Any
) -> Sequential:
    """Return the model of an estimator's parameters, with weights drawn from random_state.

    Without `layers`, W and b are drawn uniformly from +-sqrt(6 / (n_in + n_out)), or sqrt(2 / ...)
    for the logistic function, in the order in which scikit-learn draws them.
    """
    if p.layers is not None:
        if p.dropout:
            raise ValueError("dropout is for hidden_layer_sizes; with layers, put it among them")
        specs = [choice.spec for choice in chosen("layers", p.layers)]
        rng = np.random.default_rng(random_state.randint(2**31 - 1))
        try:
            made = build_layers(specs, n_in, n_outputs, init=rng, noise=rng, dtype=np.dtype(dtype))
        except SpecError as error:
            raise ValueError(f"layers.{error}") from None
        model = Sequential(made)
        if (n_out := model.output_size(n_in)) != n_outputs:
            raise ValueError(
                f"layers end with {n_out} outputs, but the targets need {n_outputs}; "
                "end them with {'linear': 'auto'}"
            )
        return model
    layers: list[Layer] = []
    factor = 2.0 if p.activation == "logistic" else 6.0
    for size, n_out in pairwise([n_in, *hidden_sizes(p.hidden_layer_sizes), n_outputs]):
        linear = Linear(size, n_out, rng=0, init="zeros", dtype=dtype)
        bound = np.sqrt(factor / (size + n_out))
        linear.W[:] = random_state.uniform(-bound, bound, (size, n_out))
        linear.b[:] = random_state.uniform(-bound, bound, n_out)
        layers += [linear, ACTIVATIONS[layer_name(p.activation)]()]
    layers.pop()  # none after the last
    if p.dropout:
        noise = np.random.default_rng(random_state.randint(2**31 - 1))
        for i in range(len(layers) - 1, 0, -2):
            layers.insert(i, Dropout(p.dropout, rng=noise))
    return Sequential(layers)


def layer_name(activation: str) -> str:
    """Return an activation's name in a config."""
    return "sigmoid" if activation == "logistic" else activation


def hidden_sizes(hidden_layer_sizes: Any) -> list[int]:
    """Return the units of each hidden layer.  Raises ValueError."""
    given = np.atleast_1d(hidden_layer_sizes).tolist()
    if any(n <= 0 for n in given):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {given}.")
    sizes = [int(n) for n in given]
    if sizes != given:
        raise ValueError(f"hidden_layer_sizes must be whole numbers, got {given}")
    return sizes


def optimizer_options(p: Any) -> dict[str, Any]:
    """Return the options of a stochastic solver's optimizer; its default decay is left out."""
    known = {field.name for field in fields(OPTIMIZERS[p.solver])}
    options = {theirs: getattr(p, ours) for ours, theirs in OPTIONS.items() if theirs in known}
    if p.weight_decay is None:
        del options["weight_decay"]
    if "nesterov" in options:
        options["nesterov"] = bool(p.nesterovs_momentum and p.momentum > 0)
    return options


def parameters_from(config: Config) -> dict[str, Any]:
    """Return the parameters that make an estimator train as the config says.

    Raises ConfigError for what the estimators do not have. What is said of data, files and threads
    says nothing about an estimator and is left out.
    """
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
        warnings.warn("data.augmentation is left out: rows are taken as they are", stacklevel=3)
    if config.evaluation.shifts:
        warnings.warn("evaluation.shifts is left out: rows are measured as they are", stacklevel=3)
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
        return {**parameters, "n_iter_no_change": math.inf}
    return {
        **parameters,
        "early_stopping": True,
        "n_iter_no_change": stopping.patience - 1,
        "tol": stopping.min_delta,
        "validation_fraction": config.data.validation,
    }


def config_of(p: Any, data: str | Mapping[str, Any]) -> Config:
    """Return the config that trains a model of an estimator's parameters on a named data set.

    Raises ConfigError for what a config cannot express.
    """
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
        return Config.model_validate(plain(values), context={"folder": os.getcwd()})
    except ValidationError as error:
        raise ConfigError("\n".join(reasons(error))) from None


def _hidden_layers(p: Any) -> list[Any]:
    layers: list[Any] = []
    for n_out in hidden_sizes(p.hidden_layer_sizes):
        layers += [{"linear": {"n_out": n_out, "init": "glorot_uniform"}}, layer_name(p.activation)]
        layers += [{"dropout": p.dropout}] if p.dropout else []
    return [*layers, {"linear": {"n_out": "auto", "init": "glorot_uniform"}}]
