"""A file and overrides become a `Config`, or one error that lists all that is wrong and where."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from minidl.config import document
from minidl.config.document import Node, brief
from minidl.config.settings import LAYER, Config
from minidl.errors import did_you_mean

# pydantic's kinds of error as what was expected.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "none_required": "null",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le}",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-' only",
}


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a config file, apply `key.path=value` overrides, and check all of it.

    Paths in the file are relative to its folder, those in overrides to the working directory.
    Nothing is imported or read because a config names it. Raises ConfigError: a file that cannot be
    read or is no YAML, or else everything that is wrong, one error a line.
    """
    root = document.read(path)
    short = LAYER.first_options if overrides else {}
    document.all_or_errors(lambda text: document.override(root, text, short), overrides)
    for key in ("path", "fallback"):
        node, steps = root.walk(["data", key])
        if steps == ["data", key] and isinstance(node.value, str) and node.overrides():
            node.value = os.path.abspath(os.path.expanduser(node.value)) if node.value else ""
    return validate(root, Path(path))


def parse(text: str, name: str) -> Config:
    """The config that `dump` wrote as text; `name` stands for the file in errors (ConfigError)."""
    return validate(document.from_bytes(text.encode(), name), Path(name))


def validate(root: Node, path: Path) -> Config:
    """The config that the document of the file at `path` holds. Raises ConfigError."""
    values: Any = root.plain()
    values.setdefault("name", default_name(path))
    problems: list[str] = []
    try:
        config = Config.model_validate(values, context={"folder": str(path.parent)})
    except ValidationError as error:
        problems = explain(root, error.errors(include_url=False))
    document.refuse(problems)
    config._document = root
    document.refuse(map(str, config.conflicts()))
    return config


def default_name(path: Path) -> str:
    """The file's name without its ending, made fit for a folder's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:100].strip("-._")
    return name or "run"


def explain(root: Node, errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """pydantic's errors in the words and at the places of the file; one line for each key path."""
    places: dict[str, tuple[str, Node]] = {}
    expected, wrong = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for error in errors:
        kind, steps, context = error["type"], list(error["loc"]), error.get("ctx", {})
        if kind == "constructor":
            steps.append(context["parameter"])
        node, keys = root.walk(steps)
        if kind == "missing":
            keys.append(str(steps[-1]))
        path = ".".join(keys)
        places.setdefault(path, (document.place(node.where, node), node))
        if kind == "missing":
            wrong[path].append("missing, and it has no default")
        elif kind == "extra_forbidden":
            wrong[path].append("unknown key" + did_you_mean(steps[-1], error["input"]))
            # The name beside it decides which keys are known.
            name, at = root.walk([*steps[:-1], "name"])
            beside = [name] if at[-1:] == ["name"] else []
            places[path] = document.place(node.key_where or node.where, *beside), node
        elif kind in _EXPECTED:  # each branch of a union says what it would have taken
            expected[path].append(_EXPECTED[kind].format(**context))
        else:
            reason = context.get("reason", error["msg"])
            if kind == "constructor" and keys and keys[-1] == steps[-1]:
                reason = reason.removeprefix(f"{keys[-1]} ")
            wrong[path].append(reason)
    lines = []
    for path, (where, node) in places.items():
        text = "; ".join(dict.fromkeys(wrong[path]))
        if not text:
            wanted = " or ".join(dict.fromkeys(expected[path]))
            hint = did_you_mean(node.value, re.findall(r"'(\w+)'", wanted))
            text = f"expected {wanted}, got {brief(node.value)}{hint}"
        lines.append(": ".join(filter(None, (where, path, text))))
    return lines
