"""From an estimator's parameters to layers, schedule and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from minidl.config import Choice
from minidl.config.choices import Family
from minidl.config.settings import LAYER, LOSS, SCHEDULE
from minidl.layers.activations import ACTIVATIONS
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear
from minidl.layers.noise import Dropout
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import SGD, Adam, AdamW, Optimizer
from minidl.schedules import Schedule
from minidl.specs import SpecError, build_layers

ACTIVATION_NAMES = {"logistic", *ACTIVATIONS}
SOLVERS = {"lbfgs", "sgd", "adam", "adamw"}


def perceptron_layers(
    sizes: Sequence[int],
    activation: str,
    dropout: float,
    *,
    random_state: np.random.RandomState,
    dtype: Any,
) -> list[Layer]:
    """Return linear layers of these sizes, with the activation (and dropout) between them.

    W and b are drawn uniformly from +-sqrt(6 / (n_in + n_out)), or sqrt(2 / ...) for the logistic
    function, in the order in which scikit-learn draws them.
    """
    layers: list[Layer] = []
    factor = 2.0 if activation == "logistic" else 6.0
    unused = np.random.default_rng(0)
    for n_in, n_out in pairwise(sizes):
        linear = Linear(n_in, n_out, rng=unused, init="zeros", dtype=dtype)
        bound = np.sqrt(factor / (n_in + n_out))
        linear.W[:] = random_state.uniform(-bound, bound, (n_in, n_out))
        linear.b[:] = random_state.uniform(-bound, bound, n_out)
        layers += [linear, ACTIVATIONS["sigmoid" if activation == "logistic" else activation]()]
    layers.pop()  # none after the last
    if dropout:
        noise = np.random.default_rng(random_state.randint(2**31 - 1))
        for i in range(len(layers) - 1, 0, -2):
            layers.insert(i, Dropout(dropout, rng=noise))
    return layers


def chosen_layers(
    choices: Sequence[Choice],
    n_in: int,
    n_outputs: int,
    *,
    random_state: np.random.RandomState,
    dtype: Any,
) -> list[Layer]:
    """Return the layers of a config's `model` list, for n_in features and n_outputs outputs."""
    rng = np.random.default_rng(random_state.randint(2**31 - 1))
    specs = [choice.spec for choice in choices]
    try:
        layers = build_layers(specs, n_in, n_outputs, init=rng, noise=rng, dtype=np.dtype(dtype))
    except SpecError as error:
        raise ValueError(f"layers.{error}") from None
    n_out = n_in
    for layer in layers:
        n_out = layer.output_size(n_out)
    if n_out != n_outputs:
        raise ValueError(
            f"layers end with {n_out} outputs, but the targets need {n_outputs}; "
            "end them with {'linear': 'auto'}"
        )
    return layers


_ANY: Any = Annotated  # made at run time, where a type checker cannot follow
_LAYERS: TypeAdapter[tuple[Choice, ...]] = TypeAdapter(tuple[_ANY[Choice, LAYER], ...])


def layer_choices(layers: Sequence[Any]) -> tuple[Choice, ...]:
    """Return the choices that a list in the notation of a config's `model` stands for."""
    made: tuple[Choice, ...] = _validated(_LAYERS, list(layers), "layers")
    return made


def loss_function_of(loss: str | Mapping[str, Any]) -> Loss:
    """Return the loss function in the notation of a config's `loss`."""
    loss_function: Loss = _choice(LOSS, loss, "loss").build()
    return loss_function


def schedule_of(schedule: str | Mapping[str, Any] | None) -> Schedule | None:
    """Return the schedule in the notation of a config's `schedule`."""
    made: Schedule | None = None
    if schedule is not None:
        made = _choice(SCHEDULE, schedule, "schedule").build()
    return made


def make_optimizer(parameters: Mapping[str, Any], model: Sequential) -> Optimizer:
    """Return the optimizer of a stochastic solver, with decay of the weights alone."""
    p = SimpleNamespace(**parameters)
    shared: dict[str, Any] = {
        "learning_rate": p.learning_rate_init,
        "clip_grad_norm": p.clip_grad_norm,
    }
    if p.weight_decay is not None:
        shared["weight_decay"] = p.weight_decay
    if p.weight_decay or p.solver == "adamw":
        shared["groups"] = model.groups
    if p.solver == "sgd":
        nesterov = p.nesterovs_momentum and p.momentum > 0
        return SGD(momentum=p.momentum, nesterov=nesterov, **shared)
    kind = AdamW if p.solver == "adamw" else Adam
    return kind(beta1=p.beta_1, beta2=p.beta_2, eps=p.epsilon, **shared)


def make_layers(
    parameters: Mapping[str, Any],
    n_features: int,
    n_outputs: int,
    *,
    random_state: np.random.RandomState,
    dtype: Any,
) -> list[Layer]:
    """Return the layers of an estimator, with weights drawn from random_state."""
    p = SimpleNamespace(**parameters)
    if p.layers is None:
        sizes = [n_features, *hidden_sizes(p.hidden_layer_sizes), n_outputs]
        return perceptron_layers(
            sizes, p.activation, p.dropout, random_state=random_state, dtype=dtype
        )
    if p.dropout:
        raise ValueError("dropout is for hidden_layer_sizes; with layers, put it among them")
    choices = layer_choices(p.layers)
    return chosen_layers(choices, n_features, n_outputs, random_state=random_state, dtype=dtype)


def hidden_sizes(hidden_layer_sizes: Any) -> list[int]:
    """Return the units of each hidden layer.  Raises ValueError."""
    given = np.atleast_1d(hidden_layer_sizes).tolist()
    if any(n <= 0 for n in given):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {given}.")
    sizes = [int(n) for n in given]
    if sizes != given:
        raise ValueError(f"hidden_layer_sizes must be whole numbers, got {given}")
    return sizes


def without_numpy(value: Any) -> Any:
    """Return the value with Python's numbers in place of NumPy's, in lists and maps as well."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {without_numpy(k): without_numpy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_numpy(each) for each in value)
    return value


def _choice(family: Family, value: Any, name: str) -> Choice:
    adapter: TypeAdapter[Choice] = TypeAdapter(_ANY[Choice, family])
    made: Choice = _validated(adapter, value, name)
    return made


def _validated(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return adapter.validate_python(without_numpy(value))
    except ValidationError as error:
        wrong = []
        for each in error.errors(include_url=False):
            reason = each.get("ctx", {}).get("reason", each["msg"])
            wrong.append(f"{'.'.join(map(str, (name, *each['loc'])))}: {reason}")
        raise ValueError("; ".join(wrong)) from None
