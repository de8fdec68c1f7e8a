"""A `Config` as a YAML file that loads to an equal one, and how two configs differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from minidl.config.document import MAX_DIGITS, resolve
from minidl.config.settings import Config

_PLAIN = re.compile(r"[\w./+-]+")


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
