"""From a name to arrays: MNIST, files, OpenML, and every data set of scikit-learn.

The keyword arguments of a function in `DATASETS` are the options of that data set in a config. The
names of scikit-learn's sets are its own without load_, make_ and fetch_; tables say which function
makes a set and with which defaults. scikit-learn is imported by the functions that use it.
"""

import inspect
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data import downloads
from minidl.data.dataset import Dataset, dataset_of
from minidl.data.files import file
from minidl.data.mnist import mnist
from minidl.errors import DataError, ParameterError, require
from minidl.memory import memory_bytes

Options = dict[str, Any]

BUNDLED: dict[str, Options] = {
    "breast_cancer": {},
    "diabetes": {"scaled": True},
    "digits": {"n_class": 10},
    "iris": {},
    "linnerud": {},
    "wine": {},
}
# Beside n_samples, 1000 unless it is given here, and seed.
MADE: dict[str, Options] = {
    "biclusters": dict(n_samples=300, n_features=20, n_clusters=5, noise=1.0),
    "blobs": dict(n_features=2, n_classes=3, cluster_std=1.0),
    "checkerboard": dict(n_samples=300, n_features=20, n_clusters=3, noise=1.0),
    "circles": dict(noise=0.1, factor=0.5),
    "classification": dict(n_features=20, n_informative=5, n_redundant=0, n_repeated=0)
    | dict(n_classes=2, n_clusters_per_class=2, class_sep=1.0, flip_y=0.01, hypercube=True)
    | dict(shift=0.0, scale=1.0),
    "friedman1": dict(n_features=10, noise=0.0),
    "friedman2": dict(noise=0.0),
    "friedman3": dict(noise=0.0),
    "gaussian_quantiles": dict(n_features=2, n_classes=3, cov=1.0),
    "hastie_10_2": dict(n_samples=12000),
    "moons": dict(noise=0.2),
    "multilabel_classification": dict(
        n_features=20, n_classes=5, n_labels=2, length=50, allow_unlabeled=True, sparse=False
    ),
    "regression": dict(
        n_features=100, n_informative=10, n_targets=1, bias=0.0, tail_strength=0.5, noise=0.0
    ),
    "s_curve": dict(noise=0.0),
    "sparse_coded_signal": dict(n_components=15, n_features=20, n_nonzero_coefs=3),
    "sparse_uncorrelated": dict(n_features=10),
    "swiss_roll": dict(noise=0.0, hole=False),
}
_FACES: Options = {"funneled": True, "resize": 0.5, "color": False}
DOWNLOADED: dict[str, Options] = {
    "20newsgroups_vectorized": {"subset": "all", "normalize": True},
    "california_housing": {},
    "covtype": {},
    "kddcup99": {"percent10": True},
    "lfw_pairs": {"subset": "train", **_FACES},
    "lfw_people": {"min_faces_per_person": 0, **_FACES},
    "olivetti_faces": {},
    "rcv1": {"subset": "all"},
    "species_distributions": {},
}
SHORTER = {"california_housing": "california", "20newsgroups_vectorized": "20newsgroups"}
_OURS = {"random_state": "seed", "centers": "n_classes"}
_PARAMETER = re.compile(r"The '(\w+)' parameter of \w+ (must be .*)\. Got (.*) instead\.", re.S)


def bundled(function: str, **options: Any) -> Dataset:
    """Return a data set that comes with scikit-learn."""
    whole_digits = (function, options) == ("digits", {"n_class": 10})
    found = (whole_digits and _digits()) or _called(f"load_{function}", options)
    return dataset_of(function, found)


def made(function: str, **options: Any) -> Dataset:
    """Return a data set that is made anew from its seed."""
    if "n_classes" in options:
        require("n_classes", options["n_classes"], options["n_classes"] >= 2, "at least 2")
    n_samples, n_features = options["n_samples"], options.get("n_features", 10)
    least = options.get("n_classes", 2)
    require("n_samples", n_samples, n_samples >= least, f"at least {least}")
    needed, available = 3 * 8 * n_samples * n_features, memory_bytes()
    if available is not None and needed > available:  # X, and its copies while it is made
        reason = f"rows of {n_features} numbers need {needed / 2**30:.3g} GiB of memory"
        raise ParameterError("n_samples", f"must be smaller: {n_samples} {reason}")
    renamed = {"random_state" if key == "seed" else key: value for key, value in options.items()}
    if function == "blobs":
        renamed["centers"] = renamed.pop("n_classes")
    if function in ("biclusters", "checkerboard"):  # which cluster is a row of?
        renamed["shape"] = renamed.pop("n_samples"), renamed.pop("n_features")
    found = tuple(_called(f"make_{function}", renamed))
    if "shape" in renamed:
        found = found[0], found[1].argmax(axis=0)
    elif function == "sparse_coded_signal":  # which code gives a signal?
        found = found[0], found[2]
    elif function == "hastie_10_2":  # -1.0 and 1.0 are classes
        found = found[0], found[1].astype(np.int64)
    return dataset_of(function, found[:2])


def downloaded(function: str, **options: Any) -> Dataset:
    """Return a data set that scikit-learn downloads once.  Raises DataError without a network."""
    try:
        found = downloads.fetch(f"scikit {function}", function, options)
    except DataError as error:
        raise DataError(
            f"{error}; scikit-learn downloads this data set once: try again with a connection, or "
            "set SCIKIT_LEARN_DATA to the scikit_learn_data folder of a machine that has it"
        ) from error
    if function == "species_distributions":
        points = np.concatenate([found["train"], found["test"]])
        places = np.stack([points["dd long"], points["dd lat"]], axis=1)
        found = {"data": places.astype(np.float64), "target": points["species"].astype(str)}
        found["feature_names"] = ["longitude", "latitude"]
    elif function == "covtype":  # whole numbers that float32 holds exactly, in half of the memory
        found["data"] = found["data"].astype(np.float32)
    return dataset_of(SHORTER.get(function, function), found)


def _digits() -> Options | None:
    """Return what load_digits does, or None where scikit-learn keeps its file elsewhere.

    The import of scikit-learn takes longer than all epochs of `digits.yaml`.
    """
    package = Path(getattr(find_spec("sklearn"), "origin", None) or "").parent
    file = package / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        return None
    table = np.loadtxt(file, delimiter=",")
    return {
        "data": table[:, :-1],
        "target": table[:, -1].astype(np.int64),
        "feature_names": [f"pixel_{row}_{column}" for row in range(8) for column in range(8)],
        "target_names": np.arange(10),
        "images": table[:, :-1].reshape(-1, 8, 8),
    }


def _called(function: str, options: Options) -> Any:
    """Call a function of sklearn.datasets; what it finds wrong with an argument is named."""
    from sklearn import datasets

    for key, value in options.items():
        require(key, value, not isinstance(value, float) or np.isfinite(value), "finite")
    try:
        return getattr(datasets, function)(**options)
    except ValueError as error:
        if (found := _PARAMETER.match(str(error))) is None:
            if "informative" in str(error):
                raise ParameterError("n_informative", f"does not fit: {error}") from error
            raise ValueError(f"{function}: {error}") from error
        parameter, rule, value = found.groups()
        raise ParameterError(_OURS.get(parameter, parameter), f"{rule}, got {value}") from error


def _source(make: Callable[..., Dataset], function: str, options: Options) -> Any:
    """A function with these options as keywords, of the types of their defaults."""

    def source(**given: Any) -> Dataset:
        signature.bind(**given)  # TypeError for an unknown option
        return make(function, **{**options, **given})

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature(
        [
            inspect.Parameter(key, kind, default=default, annotation=type(default))
            for key, default in options.items()
        ]
    )
    source.__signature__ = signature  # type: ignore[attr-defined]
    source.__doc__ = f"{function.replace('_', ' ')}, {make.__name__} by scikit-learn."
    return source


SETS: dict[str, Callable[..., Dataset]] = {
    SHORTER.get(function, function): _source(make, function, options)
    for make, table in (
        (bundled, BUNDLED),
        (made, {key: {"n_samples": 1000, **own, "seed": 0} for key, own in MADE.items()}),
        (downloaded, DOWNLOADED),
    )
    for function, options in table.items()
}


def openml(*, id: str, target: str | None = None) -> Dataset:
    """The data set of openml.org with this name or number; `target` names another target column."""
    named = re.fullmatch(r"[\w.-]*\w[\w.-]*", id, re.ASCII)  # part of a path in the cache
    require("id", repr(id), bool(named), "the name or the number of a data set on openml.org")
    return dataset_of(f"openml:{id}", downloads.openml(id, target))


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
