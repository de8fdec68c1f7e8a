"""A run's whole state as one file, and the one before it: no crash can lose both.

`last.npz` and `previous.npz` are archives (see `minidl.archive`). The arrays of the state are
stored under dotted names, "optimizer.velocity" (see `minidl.trees`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minidl import trees
from minidl.archive import read_archive, write_archive
from minidl.errors import CheckpointError

KIND, VERSION = "checkpoint", 1

# What `about` may say as a text or a map; beside it, "train_seconds".
_ABOUT = {"config": str, "data_fingerprint": str, "machine": dict, "started": str}


def save(folder: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write `last.npz` in `folder`, which must exist; the one before it becomes `previous.npz`.

    state: of the training, as returned by `Training.state()`.
    about: plain values about the run: its config, the machine, the time it took.

    Raises CheckpointError where the disk refuses, DivergenceError for a state that is not finite;
    the old files are intact after both.
    """
    arrays, rest = trees.split(state)
    document = {"state": rest, "about": dict(about)}
    last, previous = paths(folder)
    write_archive(last, arrays, document, kind=KIND, version=VERSION, previous=previous)


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (state, about) of the checkpoint in the file, or raise CheckpointError."""
    arrays, document = read_archive(path, kind=KIND, newest_version=VERSION)
    state, about = document.get("state"), document.get("about")
    if not isinstance(state, dict) or not isinstance(about, dict):
        raise CheckpointError(f"cannot read {path}: it holds no state of a run")
    fits = all(type(about.get(name, kind())) is kind for name, kind in _ABOUT.items())
    seconds = about.get("train_seconds", 0)
    if not fits or type(seconds) not in (int, float) or not 0 <= seconds < 1e300:
        raise CheckpointError(f"cannot read {path}: what it says about its run is malformed")
    try:
        return trees.join(arrays, state), about
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def paths(folder: Path) -> tuple[Path, Path]:
    """The newest checkpoint of a run's folder, and the one before it."""
    return folder / "last.npz", folder / "previous.npz"


def recover(
    folder: Path,
    use: Callable[[Path, dict[str, Any], dict[str, Any]], None],
    warn: Callable[[str], None],
) -> bool:
    """Give `use` the newest checkpoint that can be read and used; return False if there is none.

    A damaged checkpoint, and one for which `use` raises CheckpointError, is skipped with a warning.
    If none is left, the first error is raised.
    """
    errors: list[CheckpointError] = []
    for path in (path for path in paths(folder) if path.exists()):
        try:
            use(path, *load(path))
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
