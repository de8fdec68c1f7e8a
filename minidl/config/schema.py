"""The JSON Schema of a config, by which editors complete and check while one types.

It is derived from the same models as the validation, and ships as minidl/config.schema.json.  The
options of each layer, loss, data set and so on are written once, in `$defs`.
Reference: https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import json
from typing import Any

from minidl.config.choices import Family
from minidl.config.settings import DATASET, FAMILIES, Config

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of the YAML files that `load_config` takes, short notations included."""
    schema = Config.model_json_schema()
    schema["required"].remove("name")  # the file's name is the default
    definitions = schema["$defs"]
    for family in FAMILIES:
        for name in family.models:
            definitions[f"{family.kind}.{name}".replace(" ", "_")] = _options(family, name)
        if family is not DATASET:
            definitions[family.kind] = {"anyOf": _notations(family)}
    section = definitions["Data"]
    del section["properties"]["dataset"]
    definitions["Data.common"] = {"properties": section["properties"]}
    definitions["Data"] = {
        "description": section["description"],
        "anyOf": [{"enum": _bare(DATASET)}, *map(_data_section, DATASET.models)],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "minidl config",
        **{key: _tidy(value) for key, value in schema.items() if key != "title"},
    }


def _notations(family: Family) -> list[Schema]:
    """A bare name, `{name: ..., option: ...}` and `name: value`."""
    named: list[Schema] = [
        _reference(family, name) | {"required": ["name"]} for name in family.models
    ]
    if family.default is not None:
        named.append(_reference(family, family.default))
    return [{"enum": _bare(family)}, *named, _short(family)]


def _short(family: Family) -> Schema:
    return {
        "type": "object",
        "properties": {name: _short_value(family, name) for name in family.models},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }


def _data_section(name: str) -> Schema:
    """The keys of one data set beside those that every data section has."""
    named = [] if name == "file" else ["name"]  # a path alone names a file
    return {
        "allOf": [_reference(DATASET, name), {"$ref": "#/$defs/Data.common"}],
        "properties": {name: _short_value(DATASET, name)},
        "anyOf": [{"required": [*named, *_required(DATASET, name)]}, {"required": [name]}],
        "unevaluatedProperties": False,
    }


def _options(family: Family, name: str) -> Schema:
    """The map of one choice: its name and its options."""
    schema = family.models[name].model_json_schema()
    options = {
        "description": schema["description"],
        "type": "object",
        "properties": schema["properties"] | {"name": {"const": name}},
    }
    if family is DATASET:  # other keys may stand beside them
        return options
    return {**options, "required": _required(family, name), "additionalProperties": False}


def _short_value(family: Family, name: str) -> Schema:
    """What may follow `name:`; a map of options, the first option alone, or nothing."""
    required = _required(family, name)
    options = list(family.models[name].model_fields)[1:]
    values = [_reference(family, name)]
    if family is DATASET:
        needed = {"required": required} if required else {}
        values = [values[0] | needed | {"unevaluatedProperties": False}]
    if options and set(required) <= {options[0]}:
        values.append({"$ref": f"{values[0]['$ref']}/properties/{options[0]}"})
    return {"anyOf": [*values, *([] if required else [{"type": "null"}])]}


def _bare(family: Family) -> list[str]:
    return [name for name in family.models if not _required(family, name)]


def _required(family: Family, name: str) -> list[str]:
    fields = family.models[name].model_fields
    return [key for key, field in fields.items() if key != "name" and field.is_required()]


def _reference(family: Family, name: str) -> Schema:
    return {"$ref": f"#/$defs/{family.kind}.{name}".replace(" ", "_")}


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


def schema_text() -> str:
    """The schema as JSON; what fits into 100 columns stands on one line."""
    return _text(json_schema(), 0)


def _text(value: Any, indent: int) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent < 100 or not isinstance(value, dict | list):
        return flat
    if isinstance(value, list):
        brackets, lines = "[]", [_text(item, indent + 2) for item in value]
    else:
        brackets = "{}"
        lines = [f"{json.dumps(key)}: {_text(value[key], indent + 2)}" for key in value]
    inner = " " * (indent + 2)
    return f"{brackets[0]}\n{inner}" + f",\n{inner}".join(lines) + f"\n{' ' * indent}{brackets[1]}"
