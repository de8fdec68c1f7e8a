"""The JSON Schema of a config, by which editors complete and check while one types.

It is derived from the same models as the validation, and ships as minidl/config.schema.json.
Reference: https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

from typing import Any

from minidl.config.choices import Family
from minidl.config.settings import DATASET, FAMILIES, Config


def json_schema() -> dict[str, Any]:
    """The schema of the YAML files that `load_config` takes, short notations included."""
    schema = Config.model_json_schema()
    schema["required"].remove("name")  # the file's name is the default
    for family in FAMILIES:
        if family is not DATASET:
            schema["$defs"][family.kind] = {"anyOf": _notations(family)}
    section = schema["$defs"].pop("Data")
    own = {key: value for key, value in section["properties"].items() if key != "dataset"}
    schema["$defs"] |= {f"data.{key}": value for key, value in own.items()}
    schema["$defs"]["Data"] = {
        "description": section["description"],
        "anyOf": _notations(DATASET, {key: {"$ref": f"#/$defs/data.{key}"} for key in own}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "minidl config",
        **{key: _tidy(value) for key, value in schema.items() if key != "title"},
    }


def _notations(family: Family, own: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """A bare name, `{name: ..., options}` and `name: value`; `own` keys may stand beside them."""
    bare, named, short = [], [], []
    for name, model in family.models.items():
        schema = model.model_json_schema()
        options = {key: value for key, value in schema["properties"].items() if key != "name"}
        required = [key for key in schema.get("required", []) if key != "name"]
        about = {"description": schema["description"]}
        if not required:
            bare.append(name)
        tag = {"name": {"const": name}}
        named_so = [] if name == "file" else ["name"]  # a path alone names a file
        named.append({**about, **_map({**tag, **options, **(own or {})}, [*named_so, *required])})
        first = next(iter(options), None)
        values = [_map(options, required)]
        if first is not None and set(required) <= {first}:
            values.append(options[first])
        if not required:
            values.append({"type": "null"})
        rest = {key: value for key, value in options.items() if key != first} if own else {}
        short.append({**about, **_map({name: {"anyOf": values}, **rest, **(own or {})}, [name])})
    return [{"enum": bare}, *named, *short] if bare else [*named, *short] or [{"not": {}}]


def _map(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _tidy(value: Any) -> Any:
    """Without pydantic's titles; what a family chooses from becomes a reference to it."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {
        key: _tidy(item)
        for key, item in value.items()
        if key != "family" and not (key == "title" and isinstance(item, str))
    }
    if isinstance(value.get("family"), str):
        tidy["$ref"] = f"#/$defs/{value['family']}"
    return tidy
