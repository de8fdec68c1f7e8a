"""Two configs compared: whether one run can go on where another one stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from minidl.config import document
from minidl.config.loading import validate
from minidl.config.settings import Config
from minidl.config.writing import dump

AUTO_SETTINGS = ("shards", "blas_threads")


def parse(text: str, name: str) -> Config:
    """The config that `dump` wrote as text; `name` stands for the file in errors (ConfigError)."""
    return validate(document.from_bytes(text.encode(), name), Path(name))


def settled(config: Config, former: Config) -> Config:
    """The config with the automatic choices that a former run made, where it leaves them open."""
    train = config.train
    chosen = {
        key: getattr(former.train, key) for key in AUTO_SETTINGS if getattr(train, key) == "auto"
    }
    return config.model_copy(update={"train": train.model_copy(update=chosen)})


def differences(former: Config, config: Config) -> dict[str, tuple[object, object]]:
    """Each setting that differs, by its key path, with its former and its present value."""
    before, now = (
        dict(_flat(document.from_bytes(dump(c).encode(), "").plain())) for c in (former, config)
    )
    paths = [*before, *(path for path in now if path not in before)]
    return {
        path: (before.get(path), now.get(path))
        for path in paths
        if before.get(path) != now.get(path)
    }


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """(key path, scalar) of everything in nested maps and lists."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}.{i}")
    else:
        yield path, value
