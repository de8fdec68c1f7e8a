"""A layer or a loss function as {"name": ..., option: ...}, and back: the one notation for them.

Configs, model files and the `layers` of the estimators all use it. A name is looked up in a
registry, and the options are checked against the annotations of the constructor, so that a file
can make nothing else. NumPy only.
"""

import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from minidl.layers import LAYERS
from minidl.layers.layer import Layer
from minidl.memory import check_memory
from minidl.reprs import arguments_of, parameters_of, plain

Spec = Mapping[str, Any]

MAX_DEPTH = 32  # of layers within layers
MAX_LAYERS = 1000
MAX_ITEMS = 2**20  # of one list among the options

_NOT_KEPT = ("rng", "dtype", "init", "gain")  # how weights began: not part of a trained model


class SpecError(ValueError):
    """What is wrong with one layer: its place, as in "2.residual.0", its name, and the error."""

    def __init__(self, place: str, name: str, cause: ValueError) -> None:
        super().__init__(f"{place} ({name}): {cause}")
        self.place, self.name, self.cause = place, name, cause


def spec_of(thing: object, registry: Mapping[str, type]) -> dict[str, Any]:
    """Return {"name": in the registry, option: value, ...}, all of plain values.

    Raises ValueError for an object whose class is not in the registry, and for an option that
    could not be read back.
    """
    kind: Any = type(thing)
    name = next((name for name, known in registry.items() if kind is known), None)
    if name is None:
        raise ValueError(f"{kind.__name__} has no name in the registry, so no file can hold it")
    spec: dict[str, Any] = {"name": name}
    kept = arguments_of(thing)
    for key, parameter in parameters_of(kind).items():
        if key in _NOT_KEPT:
            continue
        if key not in kept:
            raise ValueError(f"no file can hold {name}: it keeps no attribute {key!r}")
        if key == "layers":
            spec[key] = [spec_of(layer, registry) for layer in kept[key]]
            continue
        spec[key] = plain(kept[key])
        if not _fits(spec[key], parameter.annotation):
            raise ValueError(
                f"no file can hold {name} with {key}={_brief(kept[key])}: options are numbers up "
                "to 1e300, texts, truth values and lists of these, annotated by the constructor"
            )
    return spec


def made_from(spec: Spec, registry: Mapping[str, Any], **supplied: Any) -> Any:
    """Return what the spec names, made with its options and those of `supplied` that it takes.

    Raises ValueError for an unknown name or option, and for an option of the wrong type.
    """
    name = spec.get("name") if isinstance(spec, Mapping) else None
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"unknown name {_brief(name)}")
    kind = registry[name]
    known = parameters_of(kind)
    options = {key: value for key, value in spec.items() if key != "name"}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"{name} has no option {_brief(key)}")
        if key not in supplied and not _fits(value, known[key].annotation):
            raise ValueError(f"{name} cannot have {key}={_brief(value)}")
    return kind(**options | {key: value for key, value in supplied.items() if key in known})


def build_layers(
    specs: Sequence[Spec],
    n_in: int,
    n_outputs: int = 0,
    *,
    init: np.random.Generator | None = None,
    noise: np.random.Generator,
    dtype: Any,
    place: str = "",
) -> list[Layer]:
    """Build the layers one after the other, each on the features that the one before it gives.

    n_in: features of the first one.  n_outputs: what `auto` stands for.  init, noise: draw the
    weights, and the keys of layers that draw in each step; without `init` all weights are 0.
    Raises SpecError for a layer that cannot be, or that this machine cannot hold, before memory is
    taken for it.
    """
    inner = partial(build_layers, n_outputs=n_outputs, init=init, noise=noise, dtype=dtype)
    layers: list[Layer] = []
    size = n_in
    for i, given in enumerate(specs):
        name, spec = str(given.get("name")), dict(given)
        if spec.get("n_out") == "auto":
            spec["n_out"] = n_outputs
        noisy = LAYERS.get(name, Layer).begin_step is not Layer.begin_step
        supplied = {"dtype": dtype, "rng": noise if noisy or init is None else init}
        if init is None:
            supplied["init"] = "zeros"
        if "layers" in spec:
            supplied["layers"] = inner(spec.pop("layers"), size, place=f"{place}{i}.{name}.")
        sizes = dict.fromkeys(_sizes_of(name), size)
        try:
            for key in sizes:
                if spec.get(key, size) != size:
                    raise ValueError(f"takes {_brief(spec[key])} features, but is given {size}")
            needed = 2 * weigh([spec], size)[0] * np.dtype(dtype).itemsize
            check_memory(needed, f"weights and gradients from {size} features")
            layer: Layer = made_from(spec | sizes, LAYERS, **supplied)
            size = layer.output_size(size)
        except ValueError as error:
            raise SpecError(f"{place}{i}", name, error) from error
        layers.append(layer)
    return layers


def weigh(specs: Sequence[Spec], n_in: int, n_outputs: int = 0) -> tuple[int, int]:
    """Return (parameters, numbers that a row becomes in all layers together).

    Nothing is built, so that sizes can be judged before memory is taken. The parameters are a
    lower bound.  Raises ValueError for what is not a list of specs, or is too deep or too long.
    """
    parameters, numbers, n_layers = _weigh(specs, n_in, n_outputs, MAX_DEPTH)
    if n_layers > MAX_LAYERS:
        raise ValueError(f"layers must be at most {MAX_LAYERS}")
    return parameters, numbers


def _weigh(specs: Any, n_in: int, n_outputs: int, depth: int) -> tuple[int, int, int]:
    if not isinstance(specs, list | tuple):
        raise ValueError("layers must be a list")
    if depth == 0:
        raise ValueError(f"layers within layers are at most {MAX_DEPTH} deep")
    totals = [0, n_in, len(specs)]
    for spec in specs:
        name = spec.get("name") if isinstance(spec, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(f"a layer must be a map with a name, got {_brief(spec)}")
        if "layers" in spec:
            inner = _weigh(spec["layers"], n_in, n_outputs, depth - 1)
            totals = [a + b for a, b in zip(totals, inner, strict=True)]
        n_out = spec.get("n_out", n_in)
        n_out = n_outputs if n_out == "auto" else n_out
        if type(n_out) is not int or not 0 <= n_out < 2**40:
            raise ValueError(f"{name} cannot have n_out={_brief(n_out)}")
        if sizes := _sizes_of(name):
            totals[0] += n_in * n_out if "n_in" in sizes else n_in
        totals[1] += n_out
        n_in = n_out
    return totals[0], totals[1], totals[2]


def _sizes_of(name: str) -> set[str]:
    """Which sizes a layer is made with; none where it takes any number of features."""
    kind: Any = LAYERS.get(name)
    return set() if kind is None else {"n_in", "n_features"} & set(parameters_of(kind))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is one of the annotated type: finite, and of a bounded length."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= 1e300
    if hint is int:
        return type(value) is int and abs(value) < 2**53
    if hint is str:
        return type(value) is str and len(value) <= 1000
    if hint in (bool, None, type(None)):
        return type(value) is bool if hint is bool else value is None
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin in (list, tuple, Sequence):
        each = arguments[0]
        in_bounds = isinstance(value, list | tuple) and len(value) <= MAX_ITEMS
        return in_bounds and all(_fits(item, each) for item in value)
    return False


def _brief(value: Any) -> str:
    text = repr(value) if not isinstance(value, Mapping | list | tuple) else type(value).__name__
    return text if len(text) <= 50 else f"{text[:46]}..."
