"""A YAML file as typed, frozen settings, or exactly what is wrong with it and where."""

from minidl.config.choices import Choice
from minidl.config.loading import default_name, load_config, parse
from minidl.config.schema import json_schema, schema_text
from minidl.config.settings import Config
from minidl.config.writing import differences, dump, quoted

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
