"""From a name to arrays: every data set that a config can name.

The keyword arguments of a function in `DATASETS` are the options of that data set in a config.
scikit-learn is imported by the functions that use it: MNIST from a file needs NumPy only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.data import downloads
from minidl.data.bunches import dataset_of
from minidl.data.dataset import Dataset
from minidl.data.files import file
from minidl.data.mnist import mnist
from minidl.data.scikit import SETS, SHORTER
from minidl.errors import require


def openml(*, id: str, target: str | None = None) -> Dataset:
    """The data set of openml.org with this name or number; `target` names another target column."""
    named = re.fullmatch(r"[\w.-]*\w[\w.-]*", id, re.ASCII)  # part of a path in the cache
    require("id", repr(id), bool(named), "the name or the number of a data set on openml.org")
    arrays = downloads.fetch("openml", id, target or "")
    if "X" in arrays:
        arrays["X"] = arrays["X"].astype(np.float64)
    return dataset_of(f"openml:{id}", arrays)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist,
    "file": file,
    "csv": file,
    "openml": openml,
    **SETS,
}


def known_name(name: str) -> str:
    """Return the name in `DATASETS` for a name of scikit-learn's, such as fetch_rcv1."""
    bare = re.sub("^(load|make|fetch)_", "", name)
    return SHORTER.get(bare, bare)


def load_dataset(name: str, **options: Any) -> Dataset:
    """Return the data set of that name in `DATASETS`, its function called with `options`.

    Raises ValueError for an unknown name or an option out of range, TypeError for an unknown
    option, DataError for data that cannot be had.
    """
    name = known_name(name)
    require("name", name, name in DATASETS, f"one of {', '.join(DATASETS)}")
    return DATASETS[name](**options)
