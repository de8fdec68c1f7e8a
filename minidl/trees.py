"""A tree of plain values, arrays and texts, as named arrays and one small JSON document.

What may be long is stored as an array under its dotted path, "optimizer.velocity": arrays, long
texts, and lists of texts or numbers. So the document is small for any tree.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

MAX_TEXTS, MAX_NUMBERS = 2**19, 2**20  # in one list
MAX_TEXT_BYTES = 2**25
_SHORT = 100  # of a list, or characters of a text: not worth an array
_SEPARATOR = 0xFF  # a byte that UTF-8 does not use
_TEXT, _TEXTS, _NUMBERS = "-text", "-texts", "-numbers"


def split(tree: Mapping[str, Any], prefix: str = "") -> tuple[Arrays, dict[str, Any]]:
    """Return (arrays by their path, the rest of the tree).  Raises ValueError for bad texts."""
    arrays: Arrays = {}
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        path, is_list = f"{prefix}{key}", isinstance(value, list | tuple)
        if isinstance(value, Mapping):
            inner, rest[key] = split(value, f"{path}.")
            arrays |= inner
        elif isinstance(value, np.ndarray | np.generic):
            arrays[path] = np.asarray(value)
        elif isinstance(value, str) and len(value) > _SHORT:
            arrays[path + _TEXT] = _packed([value])
        elif is_list and len(value) > _SHORT and all(type(each) is str for each in value):
            arrays[path + _TEXTS] = _packed(value)
        elif is_list and all(type(n) in (int, float) for n in value) and _is_apart(value):
            if len(value) > MAX_NUMBERS:
                raise ValueError(f"a list holds at most {MAX_NUMBERS} numbers, got {len(value)}")
            arrays[path + _NUMBERS] = np.array(value)
        else:
            rest[key] = value
    return arrays, rest


def join(arrays: Mapping[str, NDArray[Any]], rest: dict[str, Any]) -> dict[str, Any]:
    """Put the arrays into `rest`, which is changed, and return it.

    Raises ValueError for arrays that `split` cannot have made.
    """
    for name, array in arrays.items():
        *parents, last = name.split(".")
        branch = rest
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{name!r} has no place in it")
        key, value = _restored(last, array)
        if key in branch:
            raise ValueError(f"{name!r} occurs in it twice")
        branch[key] = value
    return rest


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their path: keys with dots come back as they were."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        leaves |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return leaves


def _restored(key: str, array: NDArray[Any]) -> tuple[str, Any]:
    """The key and the value that `split` was given."""
    if key.endswith(_TEXTS):
        return key.removesuffix(_TEXTS), _unpacked(array)
    if key.endswith(_TEXT):
        (text,) = _unpacked(array)
        return key.removesuffix(_TEXT), text
    if key.endswith(_NUMBERS):
        if array.ndim != 1 or array.dtype.kind not in "if" or array.size > MAX_NUMBERS:
            raise ValueError(f"{key!r} is not a list of numbers")
        return key.removesuffix(_NUMBERS), array.tolist()
    return key, array


def _is_apart(numbers: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is long, or holds what JSON does not: NaN and infinity."""
    return len(numbers) > _SHORT or any(n != n or abs(n) == inf for n in numbers)


def _packed(texts: list[str] | tuple[str, ...]) -> NDArray[np.uint8]:
    """Texts in UTF-8, one after another; nothing is padded to the longest."""
    try:
        content = bytes([_SEPARATOR]).join([text.encode() for text in texts])
    except UnicodeEncodeError as error:
        raise ValueError(f"a text is not Unicode: {error.object[:100]!r}") from None
    array = np.frombuffer(content, np.uint8)
    _ends(array)
    return array


def _unpacked(array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype != np.uint8:
        raise ValueError("its texts are not stored as bytes")
    ends = _ends(array)
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [array[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]


def _ends(array: NDArray[np.uint8]) -> list[int]:
    """Where each text ends; a ValueError where they are too many or too long."""
    if array.size > MAX_TEXT_BYTES:
        raise ValueError(f"a list of texts has at most {MAX_TEXT_BYTES} bytes, got {array.size}")
    is_end = array == _SEPARATOR
    if (n := np.count_nonzero(is_end) + 1) > MAX_TEXTS:
        raise ValueError(f"a list holds at most {MAX_TEXTS} texts, got {n}")
    return [*np.flatnonzero(is_end).tolist(), array.size]
