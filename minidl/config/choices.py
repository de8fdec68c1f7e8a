"""A choice: a name from one of the registries, and the options of what it names.

The keys, types and defaults of a choice are those in the signature of the class or function that
the registry names. Ranges are checked by one call of it. So a new layer is one class and one
registry entry, and its YAML, errors and schema follow.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    TypeAdapter,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from minidl.config.document import brief
from minidl.errors import ParameterError, did_you_mean
from minidl.layers import Layer
from minidl.reprs import parameters_of

# What the experiment gives to constructors, so that no config sets it; each with a value for the
# trial call. A name in SIZES is given where it is positional (`Linear(n_in, n_out)`). Clipping
# is set in the train section for every optimizer.
SUPPLIED: dict[str, Any] = {
    "rng": np.random.default_rng(0),
    "dtype": np.float32,
    "groups": None,
    "schema": None,
    "clip_grad_norm": None,
    "clip_grad_value": None,
}
SIZES = {"n_in": 2, "n_features": 2}

_dict: Any = dict  # of types made at run time, where a type checker cannot follow


class Settings(BaseModel):
    """Base of all that a config holds: frozen, no conversions, finite numbers, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _mark_unknown_keys(cls, data: object) -> object:
        return mark_unknown(data, list(cls.model_fields))


class Unknown(tuple[str, ...]):
    """The keys that are possible: it replaces the value of an unknown key."""


def mark_unknown(data: object, known: Sequence[str]) -> object:
    """Return the map with an `Unknown` as the value of each key that is not in `known`."""
    if not isinstance(data, Mapping):
        return data
    unknown = Unknown(known)
    return {
        key: value if key in known or isinstance(value, Unknown) else unknown
        for key, value in data.items()
    }


def file_name(path: str) -> str:
    """Refuse a path that no file system takes."""
    if not path or "\0" in path:
        raise PydanticCustomError("path", "not a file name")
    return path


def _absolute(path: str, info: ValidationInfo) -> str:
    """A path relative to the config file (`context["folder"]`) made absolute."""
    folder = info.context["folder"] if info.context else ""
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def _as_text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


Text = Annotated[str, BeforeValidator(_as_text)]  # also a number, as it is written
FilePath = Annotated[str, AfterValidator(file_name), AfterValidator(_absolute)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
# The types of YAML values for some annotations: lists are kept as tuples.
_BY_TYPE: dict[Any, Any] = {
    float | Sequence[float]: float | Numbers,
    Sequence[float] | None: Numbers | None,
    Mapping[str, str] | None: dict[str, str] | None,
}
# Types that the name of an option determines beyond its annotation.
_BY_NAME: dict[tuple[str, Any], Any] = {
    ("path", str | None): FilePath | None,
    ("path", str): FilePath,
    ("id", str): Text,
    ("target", str | None): Text | None,
    ("missing", Sequence[str]): Annotated[tuple[Text, ...], Strict(False)],
    ("drop", Sequence[str]): Annotated[tuple[Text, ...], Strict(False)],
    ("n_out", int): int | Literal["auto"],
}


class Choice(Settings):
    """One entry of a registry with its options, complete and checked.

    Each entry has a subclass, whose fields are the name and the options.
    """

    name: str
    factory: ClassVar[Callable[..., Any]]
    trial: ClassVar[bool]

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its value, defaults included."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}

    @property
    def spec(self) -> dict[str, Any]:
        """The choice in the notation of `minidl.specs`: {"name": ..., option: ...}."""
        return self.model_dump(mode="json")

    def build(self, **supplied: Any) -> Any:
        """Call the entry with the options, and with those of `supplied` that it takes."""
        taken = parameters_of(self.factory)
        known = {key: value for key, value in supplied.items() if key in taken}
        return type(self).factory(**self.options | known)

    @model_validator(mode="after")
    def _try(self) -> Choice:
        """Call the constructor once with tiny sizes, for the ranges that only it knows."""
        if not self.trial or self.options.get("layers"):  # those have been tried one by one
            return self
        tiny = SUPPLIED | SIZES
        n_out = self.options.get("n_out", 0)
        if n_out == "auto" or n_out > 2:
            tiny["n_out"] = 2
        try:
            self.build(**tiny)
        except (ValueError, TypeError, ArithmeticError) as error:
            wrong = error.parameter if isinstance(error, ParameterError) else ""
            context = {"reason": str(error), "parameter": wrong}
            raise PydanticCustomError("constructor", "{reason}", context) from None
        return self


class Family:
    """The choices of one registry; as `Annotated[Choice, family]`, the type of a pydantic field.

    kind: what an entry is called in messages.  default: the entry meant by options without a name.
    trial: whether a choice is checked by calling the entry.
    """

    def __init__(
        self,
        kind: str,
        registry: Mapping[str, Callable[..., Any]],
        *,
        default: str | None = None,
        trial: bool = True,
    ):
        self.kind, self.default, self.trial, self.registry = kind, default, trial, registry
        # Made when asked for: a model takes a millisecond, and a run needs a tenth of them.
        self.model = cache(self._model)
        # A map from the name to its model, so that errors are located below the name.
        self.validator = cache(lambda name: TypeAdapter(_dict[str, self.model(name)]))

    @property
    def first_options(self) -> dict[str, str]:
        """For each name the option that `name: value` sets; names without options are left out."""
        options = {name: list(_options(factory)) for name, factory in self.registry.items()}
        return {name: keys[0] for name, keys in options.items() if keys}

    def spell_out(self, value: object) -> dict[str, object]:
        """Return `relu`, `dropout: 0.2` or `dropout: {p: 0.2}` as `{name: ..., option: value}`."""
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not value:
            raise _wrong(f"expected a {self.kind}, got {brief(value)}")
        if "name" not in value and self.default is not None:
            if any(key in self.model(self.default).model_fields for key in value):
                value = {**value, "name": self.default}
        if "name" not in value:
            if len(value) > 1:
                keys = ", ".join(map(brief, value))
                raise _wrong(f"expected one {self.kind}, got several keys and no name: {keys}")
            ((name, inner),) = value.items()
            if inner is not None and not isinstance(inner, Mapping):
                inner = {self.first_options.get(name, ""): inner}
            value = {**(inner or {}), "name": name}
        name = value["name"]
        if not isinstance(name, str) or name not in self.registry:
            known = list(self.registry)
            hint = did_you_mean(name, known) or f"; known: {', '.join(known) or 'none'}"
            what = f"unknown {self.kind} {brief(name)}" if name else f"the {self.kind} has no name"
            raise _wrong(what + hint)
        if "" in value:
            raise _wrong(f"{name} takes no options")
        return dict(value)

    def validate(self, value: object, info: ValidationInfo) -> Choice:
        """Return the choice that `value` notes; raise what pydantic makes a ValidationError of."""
        if isinstance(value, Choice):
            return value
        spelled = self.spell_out(value)
        name = str(spelled["name"])
        choice: Choice = self.validator(name).validate_python(
            {name: spelled}, context=info.context
        )[name]
        return choice

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return {"family": self.kind}  # schema.py writes the definition once and refers to it

    def _model(self, name: str) -> type[Choice]:
        factory = self.registry[name]
        fields: dict[str, Any] = {"name": (Literal[name], name)}
        inner = Annotated[tuple[Annotated[Choice, self], ...], Strict(False)]
        by_type = {**_BY_TYPE, Sequence[Layer]: inner}
        for key, parameter in _options(factory).items():
            hint = parameter.annotation
            hint = _BY_NAME.get((key, hint)) or by_type.get(hint, hint)
            fields[key] = (hint, ... if parameter.default is parameter.empty else parameter.default)
        summary = inspect.cleandoc(factory.__doc__ or name).split("\n\n")[0].replace("\n", " ")
        model = create_model(name, __base__=Choice, __doc__=summary, **fields)
        model.factory, model.trial = staticmethod(factory), self.trial
        return model


def _options(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments that a config may set."""
    return {
        key: parameter
        for key, parameter in parameters_of(factory).items()
        if key not in SUPPLIED and (key not in SIZES or parameter.kind == parameter.KEYWORD_ONLY)
    }


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("choice", "{reason}", {"reason": reason})
