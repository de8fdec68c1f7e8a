"""The configs that come with minidl: recipes found by name, wherever the command is started."""

import os
import re
from pathlib import Path

from minidl.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")  # installed, or in a checkout
SCHEMA = PACKAGE / "config.schema.json"
_SCHEMA_LINE = re.compile(r"(# yaml-language-server: \$schema=).*")


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name, in alphabetical order."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    files = [] if folder is None else sorted(folder.glob("*.yaml"))
    return {file.stem: file for file in files}


def find_config(path: str) -> Path:
    """The config file at `path`, or where there is none the shipped one of that name.

    `mnist` and `configs/mnist.yaml` both name the shipped mnist. Raises ConfigError with the
    nearest names for a name that is neither a file nor shipped.
    """
    name = re.sub(r"^configs[/\\](.*)\.yaml$", r"\1", path)
    if path == "-" or os.path.lexists(path) or not re.fullmatch(r"\w+", name):
        return Path(path)
    return shipped_config(name, f"{path}: no such file, and")


def shipped_config(name: str, before: str) -> Path:
    """The shipped config of that name; a ConfigError, whose message has `before` in front."""
    configs = shipped_configs()
    if name not in configs:
        hint = did_you_mean(name, configs) or "; minidl configs lists those that are shipped"
        raise ConfigError(f"{before} no shipped config {name!r}{hint}")
    return configs[name]


def find_fallback(path: str) -> Path:
    """The file at `path`, or where there is none the shipped config with the name of that file."""
    file = Path(path)
    return file if os.path.lexists(file) else shipped_configs().get(file.stem, file)


def description(file: Path) -> str:
    """The sentence in the second line of a shipped config, below that of the schema."""
    return file.read_text(encoding="utf-8").splitlines()[1].lstrip("# ").rstrip(".:")


def copy_of(file: Path) -> str:
    """The text of a shipped config for another folder: its schema is found by an absolute path."""
    text = file.read_text(encoding="utf-8")
    return _SCHEMA_LINE.sub(lambda found: found[1] + SCHEMA.as_posix(), text, count=1)
