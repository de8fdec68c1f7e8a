"""A run's whole state as one file, and the one before it: no crash can lose both.

`last.npz` and `previous.npz` are archives (see `minidl.archive`). The arrays of the state's tree
lie in them under dotted names, "optimizer.velocity"; everything else is in the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.archive import read_archive, write_archive
from minidl.errors import CheckpointError

KIND, VERSION = "checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    state: of the training, as `Training.state()` returns it.
    about: the run it belongs to: its config, what it ran on, ...; plain values.
    """

    state: Mapping[str, Any]
    about: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `last.npz` in `folder`, which must exist; the one before it becomes `previous.npz`.

    Raises CheckpointError where the disk refuses, DivergenceError for a state that is not finite;
    the old files are intact after both.
    """
    arrays: dict[str, Any] = {}
    state = _without_arrays(checkpoint.state, "", arrays)
    document = {"state": state, "about": dict(checkpoint.about)}
    last, previous = paths(folder)
    write_archive(last, arrays, document, kind=KIND, version=VERSION, previous=previous)


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in the file, or raise CheckpointError."""
    arrays, document = read_archive(path, kind=KIND, newest_version=VERSION)
    state, about = document.get("state"), document.get("about")
    if not isinstance(state, dict) or not isinstance(about, dict):
        raise CheckpointError(f"cannot read {path}: it holds no state of a run")
    for name, array in arrays.items():
        *parents, key = name.split(".")
        branch = state
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise CheckpointError(f"cannot read {path}: {name!r} has no place in its state")
        if key in branch:
            raise CheckpointError(f"cannot read {path}: {name!r} stands in it twice")
        branch[key] = array
    return Checkpoint(state, about)


def paths(folder: Path) -> tuple[Path, Path]:
    """The newest checkpoint of a run's folder, and the one before it."""
    return folder / "last.npz", folder / "previous.npz"


def recover(
    folder: Path, use: Callable[[Path, Checkpoint], None], warn: Callable[[str], None]
) -> bool:
    """Give `use` the newest checkpoint that can be read and used; return False where there is none.

    A damaged one, or one for which `use` raises CheckpointError, is passed over with a warning;
    if that leaves none, the first error is raised.
    """
    errors: list[CheckpointError] = []
    for path in (path for path in paths(folder) if path.exists()):
        try:
            use(path, load(path))
        except CheckpointError as error:
            errors.append(error)
            continue
        for passed_over in errors:
            warn(f"{passed_over}\ngoing on from {path}, which is older")
        return True
    if errors:
        raise CheckpointError(
            f"{errors[0]}\nno other checkpoint is left; to train from the start, remove {folder}"
        ) from errors[0]
    return False


def _without_arrays(tree: Mapping[str, Any], prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The tree without its arrays, which are put into `arrays` under their path."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            arrays[prefix + key] = value
        elif isinstance(value, Mapping):
            rest[key] = _without_arrays(value, f"{prefix}{key}.", arrays)
        else:
            rest[key] = value
    return rest
