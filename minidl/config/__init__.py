"""A YAML file as typed, frozen settings, or exactly what is wrong with it and where."""

from minidl.config.choices import Choice
from minidl.config.schema import json_schema, schema_text
from minidl.config.settings import Config
from minidl.config.text import default_name, differences, dump, load_config, parse, quoted

__all__ = [
    "Choice",
    "Config",
    "default_name",
    "differences",
    "dump",
    "json_schema",
    "load_config",
    "parse",
    "quoted",
    "schema_text",
]
