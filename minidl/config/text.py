"""A config as the text of a YAML file with overrides, and back; how two configs differ.

What is wrong with a file is one error that lists all of it, and where.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from minidl.config import document
from minidl.config.document import MAX_DIGITS, Node, brief, resolve
from minidl.config.settings import LAYER, Config
from minidl.errors import did_you_mean

_PLAIN = re.compile(r"[\w./+-]+")  # what needs no quotes
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


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper; it quotes each text that this package would read as something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # lists are indented further than their key


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) and len(text) <= MAX_DIGITS and resolve(text) == text
    style = None if plain else '"'  # single quotes would fold U+0085 and its like
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


class _Entry(dict[str, object]):
    """A map that is not put in braces: `- dropout: 0.2`."""


def _entry(dumper: yaml.SafeDumper, entry: _Entry) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", entry.items(), flow_style=False)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Entry, _entry)


def quoted(text: str) -> str:
    """A text as a file has it on one line: in quotes where YAML would read something else."""
    return yaml.dump(text, Dumper=_Dumper, allow_unicode=True, width=2**31).split("\n")[0]


def dump(config: Config) -> str:
    """The whole config, defaults included, as YAML text: sections in order, choices on one line."""
    blocks = []
    for key, value in plain(config).items():
        section = isinstance(value, dict | list)
        block = yaml.dump(
            {key: value},
            Dumper=_Dumper,
            default_flow_style=None if section else False,
            sort_keys=False,
            allow_unicode=True,
            width=100,
        )
        blocks.append("\n" + block if section else block)
    return "".join(blocks)


def plain(config: Config) -> dict[str, Any]:
    """The maps, lists and scalars of the file; layers in their short notation."""
    values: dict[str, Any] = config.model_dump(mode="json")
    data, every = values["data"], values["train"]["checkpoint_every"]
    values["data"] = data.pop("dataset") | data
    values["train"]["checkpoint_every"] = {k: n for k, n in every.items() if n is not None}
    values["model"] = [_short(layer) for layer in values["model"]]
    return values


def _short(layer: dict[str, Any]) -> object:
    options = {key: value for key, value in layer.items() if key != "name"}
    if "layers" in options:
        options["layers"] = [_short(inner) for inner in options["layers"]]
    only = next(iter(options.values()), None)
    bare = len(options) == 1 and only is not None and not isinstance(only, dict)
    return _Entry({layer["name"]: only if bare else options}) if options else layer["name"]


def differences(former: Config, config: Config) -> dict[str, tuple[object, object]]:
    """Each setting that differs, by its key path, with its former and its present value."""
    before, now = (dict(_flat(plain(each))) for each in (former, config))
    values = {path: (before.get(path), now.get(path)) for path in before | now}
    return {path: pair for path, pair in values.items() if pair[0] != pair[1]}


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """(key path, scalar) of everything in nested maps and lists."""
    items = dict(enumerate(value)) if isinstance(value, list) else value
    if isinstance(items, dict) and items:
        for key, item in items.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
