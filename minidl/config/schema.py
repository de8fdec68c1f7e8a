"""The JSON Schema of a config, by which editors complete and check while one types.

It is derived from the models that validate, and ships as minidl/config.schema.json. What may follow
`name:` for a layer, loss, data set and so on is written once, in `$defs`.
Reference: https://json-schema.org/draft/2020-12.
"""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

from minidl.config.choices import Choice, Family, Settings
from minidl.config.settings import DATASET, FAMILIES, Config

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of the YAML files that `load_config` takes, short notations included."""
    schema = Config.model_json_schema()
    schema["required"].remove("name")  # the file's name is the default
    definitions = schema["$defs"]
    for section in Settings.__subclasses__():
        if section is not Choice:
            _describe(section, schema if section is Config else definitions[section.__name__])
    for family in FAMILIES:
        definitions |= {_name(family, name): _options(family, name) for name in family.registry}
        definitions[family.kind] = _notations(family)
    data = definitions["Data"]
    del data["properties"]["dataset"]  # its keys are in the section itself
    definitions["Data"] = {
        "description": data["description"],
        "properties": data["properties"],
        **definitions.pop(DATASET.kind),
        "unevaluatedProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "minidl config",
        **json.loads(json.dumps(schema), object_hook=_tidy),
    }


def _describe(section: type[Settings], schema: Schema) -> None:
    """Add the texts below the fields of a section, which pydantic would read at each start."""
    (tree,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(tree, ast.ClassDef)
    for field, below in pairwise(tree.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found = {"description": inspect.cleandoc(text), **schema["properties"][name]}
                schema["properties"][name] = dict(sorted(found.items()))


def _notations(family: Family) -> Schema:
    """A bare name, `{name: ..., option: ...}` and, but for data sets, `name: value`."""
    required = {name: _required(family, name) for name in family.registry}
    references: dict[str, Schema] = {
        name: {"$ref": f"#/$defs/{_name(family, name)}"} for name in family.registry
    }
    bare = [name for name, keys in required.items() if not keys]
    notations: list[Schema] = [{"enum": bare}]
    for name, keys in required.items():
        named = [] if name == "file" else ["name"]  # a path alone names a file
        notations.append(references[name] | {"type": "object", "required": [*named, *keys]})
    if family.default is not None:
        notations.append(references[family.default] | {"type": "object"})
    if family is not DATASET:
        short = {"type": "object", "properties": references, "additionalProperties": False}
        notations.append(short | {"minProperties": 1, "maxProperties": 1})
    return {"anyOf": notations}


def _options(family: Family, name: str) -> Schema:
    """What may follow `name:`; a map of options, the first option alone, or nothing."""
    schema = family.model(name).model_json_schema()
    required = _required(family, name)
    first = family.first_options.get(name)
    kinds: list[Schema] = [{"type": "object" if required else ["object", "null"]}]
    if first is not None and set(required) <= {first}:
        kinds.append({"$ref": f"#/$defs/{_name(family, name)}/properties/{first}"})
    options = {
        "description": schema["description"],
        "anyOf": kinds,
        "properties": schema["properties"] | {"name": {"const": name}},
    }
    if family is DATASET:  # other keys may be given beside them
        return options
    return {**options, "required": required, "additionalProperties": False}


def _required(family: Family, name: str) -> list[str]:
    fields = family.model(name).model_fields
    return [key for key, field in fields.items() if key != "name" and field.is_required()]


def _name(family: Family, name: str) -> str:
    return f"{family.kind}.{name}".replace(" ", "_")


def _tidy(value: Schema) -> Schema:
    """Without pydantic's titles and empty lists; what a family chooses from as a reference."""
    if isinstance(value.get("title"), str):
        del value["title"]
    if value.get("required") == []:
        del value["required"]
    if isinstance(value.get("family"), str):
        value["$ref"] = f"#/$defs/{value.pop('family')}"
    return value


def schema_text() -> str:
    """The schema as JSON; what fits into 100 columns is on one line."""
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
