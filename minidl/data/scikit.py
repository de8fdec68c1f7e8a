"""Every data set of scikit-learn by name: bundled, made, and downloaded.

One table says which function makes a set and with which defaults; the names of the sets are those
of scikit-learn without load_, make_ and fetch_.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.data import downloads
from minidl.data.bunches import arrays_of, dataset_of
from minidl.data.dataset import Dataset
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
_ROWS: Options = {"n_samples": 1000, "noise": 0.0, "seed": 0}
_CLUSTERS: Options = {"n_samples": 300, "n_features": 20, "n_clusters": 5, "noise": 1.0, "seed": 0}
MADE: dict[str, Options] = {
    "biclusters": _CLUSTERS,
    "blobs": {"n_samples": 1000, "n_features": 2, "n_classes": 3, "cluster_std": 1.0, "seed": 0},
    "checkerboard": {**_CLUSTERS, "n_clusters": 3},
    "circles": {"n_samples": 1000, "noise": 0.1, "factor": 0.5, "seed": 0},
    "classification": {
        "n_samples": 1000,
        "n_features": 20,
        "n_informative": 5,
        "n_redundant": 0,
        "n_repeated": 0,
        "n_classes": 2,
        "n_clusters_per_class": 2,
        "class_sep": 1.0,
        "flip_y": 0.01,
        "hypercube": True,
        "shift": 0.0,
        "scale": 1.0,
        "seed": 0,
    },
    "friedman1": {"n_samples": 1000, "n_features": 10, "noise": 0.0, "seed": 0},
    "friedman2": _ROWS,
    "friedman3": _ROWS,
    "gaussian_quantiles": {
        "n_samples": 1000,
        "n_features": 2,
        "n_classes": 3,
        "cov": 1.0,
        "seed": 0,
    },
    "hastie_10_2": {"n_samples": 12000, "seed": 0},
    "moons": {"n_samples": 1000, "noise": 0.2, "seed": 0},
    "multilabel_classification": {
        "n_samples": 1000,
        "n_features": 20,
        "n_classes": 5,
        "n_labels": 2,
        "length": 50,
        "allow_unlabeled": True,
        "sparse": False,
        "seed": 0,
    },
    "regression": {
        "n_samples": 1000,
        "n_features": 100,
        "n_informative": 10,
        "n_targets": 1,
        "bias": 0.0,
        "tail_strength": 0.5,
        "noise": 0.0,
        "seed": 0,
    },
    "s_curve": _ROWS,
    "sparse_coded_signal": {
        "n_samples": 1000,
        "n_components": 15,
        "n_features": 20,
        "n_nonzero_coefs": 3,
        "seed": 0,
    },
    "sparse_uncorrelated": {"n_samples": 1000, "n_features": 10, "seed": 0},
    "swiss_roll": {**_ROWS, "hole": False},
}
DOWNLOADED: dict[str, Options] = {
    "20newsgroups_vectorized": {"subset": "all", "normalize": True},
    "california_housing": {},
    "covtype": {},
    "kddcup99": {"percent10": True},
    "lfw_pairs": {"subset": "train", "funneled": True, "resize": 0.5, "color": False},
    "lfw_people": {
        "min_faces_per_person": 0,
        "funneled": True,
        "resize": 0.5,
        "color": False,
    },
    "olivetti_faces": {},
    "rcv1": {"subset": "all"},
    "species_distributions": {},
}
SHORTER = {"california_housing": "california", "20newsgroups_vectorized": "20newsgroups"}
# What scikit-learn has under these prefixes and nothing can be learnt from.
WITHOUT_TARGET = (
    "low_rank_matrix",
    "spd_matrix",
    "sparse_spd_matrix",
    "sample_image",
    "sample_images",
)
_THEIRS = {"seed": "random_state"}
_OURS = {"random_state": "seed", "centers": "n_classes"}
_PARAMETER = re.compile(r"The '(\w+)' parameter of \w+ (must be .*)\. Got (.*) instead\.", re.S)


def bundled(function: str, **options: Any) -> Dataset:
    """Return a data set that comes with scikit-learn."""
    return dataset_of(function, arrays_of(_called(f"load_{function}", options)))


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
    renamed = {_THEIRS.get(key, key): value for key, value in options.items()}
    if function == "blobs":
        renamed["centers"] = renamed.pop("n_classes")
    if function in ("biclusters", "checkerboard"):  # which cluster is a row of?
        shape = renamed.pop("n_samples"), renamed.pop("n_features")
        X, rows, _ = _called(f"make_{function}", {**renamed, "shape": shape})
        found = X, rows.argmax(axis=0)
    elif function == "sparse_coded_signal":  # which code gives a signal?
        signals, _, codes = _called(f"make_{function}", renamed)
        found = signals, codes
    else:
        found = _called(f"make_{function}", renamed)
    return dataset_of(function, arrays_of(found), classes=function == "hastie_10_2")


def downloaded(function: str, **options: Any) -> Dataset:
    """Return a data set that scikit-learn downloads once.  Raises DataError without a network."""
    name = SHORTER.get(function, function)
    try:
        arrays = downloads.fetch("scikit", function, json.dumps(options))
    except DataError as error:
        raise DataError(
            f"{error}; scikit-learn downloads this data set once: try again with a connection, or "
            "set SCIKIT_LEARN_DATA to the scikit_learn_data folder of a machine that has it"
        ) from error
    return dataset_of(name, arrays)


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


def _without_target(function: str) -> Dataset:
    raise ValueError(f"scikit-learn's {function} has no target: nothing can be learnt from it")


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
    verb = {bundled: "bundled with", made: "made by", downloaded: "downloaded by"}.get(make, "of")
    source.__doc__ = f"{function.replace('_', ' ')}, {verb} scikit-learn."
    return source


SETS: dict[str, Callable[..., Dataset]] = {
    SHORTER.get(function, function): _source(make, function, options)
    for make, table in ((bundled, BUNDLED), (made, MADE), (downloaded, DOWNLOADED))
    for function, options in table.items()
} | {function: _source(_without_target, function, {}) for function in WITHOUT_TARGET}
