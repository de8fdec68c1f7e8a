"""Class labels: as an array to index, and as plain values for a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidl.kernels import Array

MAX_LENGTH = 10_000  # characters of a label
_MAX_PADDED = 2**24  # bytes of labels as an array of one width; beyond, they are Python objects
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns")  # of dates


def plain_labels(classes: Any) -> list[Any]:
    """Return labels as Python values; datetime64 labels stay what they are."""
    return [
        label.item() if isinstance(label, np.generic) and label.dtype.kind != "M" else label
        for label in classes
    ]


def label_array(classes: Sequence[Any]) -> Array:
    """Return labels as an array; long ones as objects, since padding all to one width is costly."""
    widest = max((len(label) for label in classes if isinstance(label, str)), default=0)
    if 4 * widest * len(classes) <= _MAX_PADDED:
        return np.asarray(classes)
    return np.array([*classes, None], object)[:-1]


def stored_labels(classes: Sequence[Any]) -> Any:
    """Return labels as a file holds them.

    Raises ValueError unless they are different from each other and of one kind: texts, numbers,
    bools or dates.
    """
    kinds = {type(label) for label in classes}
    if not (kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool, np.datetime64})):
        raise ValueError("classes must be all texts, all numbers, all dates or all true or false")
    if not classes or len(set(classes)) < len(classes):
        raise ValueError("classes must be at least one, and different from each other")
    if str in kinds and max(map(len, classes)) > MAX_LENGTH:
        raise ValueError(f"a class label has at most {MAX_LENGTH} characters")
    if kinds <= {int, float} and not all(abs(label) < 2**63 for label in classes):
        raise ValueError("classes must be finite numbers below 2**63")
    if np.datetime64 not in kinds:
        return list(classes)
    unit = np.datetime_data(np.asarray(classes).dtype)[0]
    dates = np.asarray(classes, f"M8[{unit}]")
    if np.isnat(dates).any():
        raise ValueError("a class must be a date")
    return {"unit": unit, "counts": dates.astype(np.int64)}


def restored_labels(stored: Any) -> Any:
    """Return what `stored_labels` was given.  Raises ValueError for what it cannot have made."""
    if isinstance(stored, Mapping):
        counts: Any = stored.get("counts")
        unit = stored.get("unit")
        whole = isinstance(counts, np.ndarray) and counts.ndim == 1 and counts.dtype == np.int64
        if not whole or unit not in _UNITS:
            raise ValueError("its classes are not dates")
        stored = list(counts.view(f"M8[{unit}]"))
    if not isinstance(stored, list):
        raise ValueError("its classes are not a list of labels")
    stored_labels(stored)
    return stored
