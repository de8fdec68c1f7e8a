"""From an estimator's parameters to layers, loss function, schedule and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from minidl.config import Choice
from minidl.config.settings import LAYER, LOSS, SCHEDULE
from minidl.layers.activations import ACTIVATIONS
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear
from minidl.layers.noise import Dropout
from minidl.optimizers import OPTIMIZERS
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


def chosen(name: str, value: Any) -> Any:
    """Return the choices for the parameter of that name, in the notation of a config.

    Raises ValueError.
    """
    value = list(value) if isinstance(value, tuple) else value
    try:
        return NOTATIONS[name].validate_python(without_numpy(value))
    except ValidationError as error:
        raise ValueError("; ".join(reasons(error, name))) from None


def reasons(error: ValidationError, *place: str) -> list[str]:
    """Return what is wrong, each with its place."""
    return [
        f"{'.'.join(map(str, (*place, *each['loc'])))}: "
        f"{each.get('ctx', {}).get('reason', each['msg'])}"
        for each in error.errors(include_url=False)
    ]


def make_layers(
    parameters: Any,
    n_features: int,
    n_outputs: int,
    *,
    random_state: np.random.RandomState,
    dtype: Any,
) -> list[Layer]:
    """Return the layers of an estimator, with weights drawn from random_state.

    Without `layers`, W and b are drawn uniformly from +-sqrt(6 / (n_in + n_out)), or sqrt(2 / ...)
    for the logistic function, in the order in which scikit-learn draws them.
    """
    p = parameters
    if p.layers is not None:
        if p.dropout:
            raise ValueError("dropout is for hidden_layer_sizes; with layers, put it among them")
        return _chosen_layers(p.layers, n_features, n_outputs, random_state, dtype)
    layers: list[Layer] = []
    factor = 2.0 if p.activation == "logistic" else 6.0
    for n_in, n_out in pairwise([n_features, *hidden_sizes(p.hidden_layer_sizes), n_outputs]):
        linear = Linear(n_in, n_out, rng=0, init="zeros", dtype=dtype)
        bound = np.sqrt(factor / (n_in + n_out))
        linear.W[:] = random_state.uniform(-bound, bound, (n_in, n_out))
        linear.b[:] = random_state.uniform(-bound, bound, n_out)
        layers += [linear, ACTIVATIONS[layer_name(p.activation)]()]
    layers.pop()  # none after the last
    if p.dropout:
        noise = np.random.default_rng(random_state.randint(2**31 - 1))
        for i in range(len(layers) - 1, 0, -2):
            layers.insert(i, Dropout(p.dropout, rng=noise))
    return layers


def _chosen_layers(
    layers: Any, n_in: int, n_outputs: int, random_state: np.random.RandomState, dtype: Any
) -> list[Layer]:
    specs = [choice.spec for choice in chosen("layers", layers)]
    rng = np.random.default_rng(random_state.randint(2**31 - 1))
    try:
        made = build_layers(specs, n_in, n_outputs, init=rng, noise=rng, dtype=np.dtype(dtype))
    except SpecError as error:
        raise ValueError(f"layers.{error}") from None
    n_out = n_in
    for layer in made:
        n_out = layer.output_size(n_out)
    if n_out != n_outputs:
        raise ValueError(
            f"layers end with {n_out} outputs, but the targets need {n_outputs}; "
            "end them with {'linear': 'auto'}"
        )
    return made


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


def optimizer_options(parameters: Any) -> dict[str, Any]:
    """Return the options of a stochastic solver's optimizer; its default decay is left out."""
    p, kind = parameters, OPTIMIZERS[parameters.solver]
    known = {field.name for field in fields(kind)}
    options = {theirs: getattr(p, ours) for ours, theirs in OPTIONS.items() if theirs in known}
    if p.weight_decay is None:
        del options["weight_decay"]
    if "nesterov" in options:
        options["nesterov"] = bool(p.nesterovs_momentum and p.momentum > 0)
    return options


def without_numpy(value: Any) -> Any:
    """Return the value with Python's numbers in place of NumPy's, in lists and maps as well."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {without_numpy(k): without_numpy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_numpy(each) for each in value)
    return value
