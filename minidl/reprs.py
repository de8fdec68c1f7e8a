"""The arguments that an object was made with, and a representation that shows them.

Layers and preprocessings keep each argument of their constructor under its own name.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np


@cache
def parameters_of(kind: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class's constructor, their annotations as types."""
    return inspect.signature(kind, eval_str=True).parameters


def arguments_of(thing: Any) -> dict[str, Any]:
    """Return the arguments of the constructor that `thing` keeps as attributes."""
    names = parameters_of(thing.__class__)
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def call_of(thing: Any) -> str:
    """Return the call that makes `thing`, such as "Linear(64, 10)", without defaults."""
    shown = []
    for name, value in arguments_of(thing).items():
        parameter = parameters_of(thing.__class__)[name]
        if parameter.default is parameter.empty and parameter.kind != parameter.KEYWORD_ONLY:
            shown.append(repr(list(value) if isinstance(value, tuple) else value))
        elif value is not parameter.default and value != parameter.default:
            shown.append(f"{name}={value!r}")
    return f"{type(thing).__name__}({', '.join(shown)})"


def plain(value: Any) -> Any:
    """Return a value with Python's numbers and lists in place of NumPy's, in lists and maps too."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    return value
