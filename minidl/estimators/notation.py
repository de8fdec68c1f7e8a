"""From an estimator's parameters to its model and optimizer.

The notation of layers, losses and schedules is that of a config.
"""

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


def hidden_layers(p: Any) -> list[Any]:
    """Return the layers of `hidden_layer_sizes`, `activation` and `dropout`."""
    layers: list[Any] = []
    for n_out in hidden_sizes(p.hidden_layer_sizes):
        layers += [{"linear": {"n_out": n_out, "init": "glorot_uniform"}}, layer_name(p.activation)]
        layers += [{"dropout": p.dropout}] if p.dropout else []
    return [*layers, {"linear": {"n_out": "auto", "init": "glorot_uniform"}}]
