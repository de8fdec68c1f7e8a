"""From a name to arrays: every data set that a config can name.

The keyword arguments of a function in `DATASETS` are the options of that data set in a config.
scikit-learn is imported by the functions that use it: MNIST from a file needs NumPy only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data import downloads
from minidl.data.dataset import Dataset
from minidl.data.files import file
from minidl.data.mnist import find_mnist, local_copy
from minidl.errors import DataError, ParameterError, require
from minidl.memory import memory_bytes


def mnist(*, path: str | None = None) -> Dataset:
    """60,000 training and 10,000 test images of handwritten digits, 784 pixels as bytes."""
    arrays = find_mnist(path)
    file = local_copy() if path is None else Path(path)
    return Dataset(
        "mnist",
        arrays["x_train"],
        arrays["y_train"],
        arrays["x_test"],
        arrays["y_test"],
        classes=tuple(range(10)),
        image_shape=(28, 28, 1),
        path=None if file is None else os.path.abspath(os.path.expanduser(file)),
    )


def digits() -> Dataset:
    """1,797 images of handwritten digits, 8 x 8 pixels from 0 to 16."""
    from sklearn.datasets import load_digits

    return _bundled("digits", load_digits(), image_shape=(8, 8, 1))


def iris() -> Dataset:
    """150 flowers of 3 species, 4 measures in cm."""
    from sklearn.datasets import load_iris

    return _bundled("iris", load_iris())


def wine() -> Dataset:
    """178 wines from 3 growers, 13 chemical measures."""
    from sklearn.datasets import load_wine

    return _bundled("wine", load_wine())


def breast_cancer() -> Dataset:
    """569 tumours, malignant or benign, 30 measures of cell nuclei."""
    from sklearn.datasets import load_breast_cancer

    return _bundled("breast_cancer", load_breast_cancer())


def diabetes() -> Dataset:
    """442 patients, 10 features already centred and scaled; target: the progress in a year."""
    from sklearn.datasets import load_diabetes

    return _bundled("diabetes", load_diabetes())


def california() -> Dataset:
    """20,640 blocks of houses, 8 features; target: the median value in 100,000 dollars.

    Pace and Barry, Sparse Spatial Autoregressions, 1997; downloaded once.
    """
    arrays = _downloaded("california")
    names = tuple(arrays["feature_names"].tolist())
    return Dataset("california", arrays["X"], arrays["y"], feature_names=names)


def covtype() -> Dataset:
    """581,012 patches of forest, 10 measures and 44 marks of 0 or 1; 7 kinds of cover, 1 to 7.

    Blackard and Dean, Comparative Accuracies of Artificial Neural Networks and Discriminant
    Analysis in Predicting Forest Cover Types, 1999; downloaded once.
    """
    arrays = _downloaded("covtype")
    y, classes = arrays["y"].astype(np.int64) - 1, tuple(range(1, 8))
    names = tuple(arrays["feature_names"].tolist())
    return Dataset("covtype", arrays["X"], y, classes=classes, feature_names=names)


def moons(*, n_samples: int = 1000, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Two interleaved half circles in the plane, with Gaussian noise of deviation `noise`."""
    _check_generated(n_samples, 2, seed, noise=noise)
    from sklearn.datasets import make_moons

    X, y = make_moons(n_samples, noise=noise, random_state=seed)
    return _generated("moons", X, y, n_classes=2)


def circles(
    *, n_samples: int = 1000, noise: float = 0.1, factor: float = 0.5, seed: int = 0
) -> Dataset:
    """A circle in another, `factor` times as large, with Gaussian noise of deviation `noise`."""
    _check_generated(n_samples, 2, seed, noise=noise)
    require("factor", factor, 0 <= factor < 1, "in [0, 1)")
    from sklearn.datasets import make_circles

    X, y = make_circles(n_samples, noise=noise, factor=factor, random_state=seed)
    return _generated("circles", X, y, n_classes=2)


def blobs(
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 3,
    cluster_std: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """One Gaussian cloud of deviation `cluster_std` for each class."""
    _check_generated(n_samples, n_classes, seed, n_features, cluster_std=cluster_std)
    from sklearn.datasets import make_blobs

    X, y = make_blobs(
        n_samples, n_features, centers=n_classes, cluster_std=cluster_std, random_state=seed
    )[:2]
    return _generated("blobs", X, y, n_classes)


def classification(
    *,
    n_samples: int = 1000,
    n_features: int = 20,
    n_informative: int = 5,
    n_classes: int = 2,
    class_sep: float = 1.0,
    flip_y: float = 0.01,
    seed: int = 0,
) -> Dataset:
    """Two Gaussian clusters a class, at corners of a cube in `n_informative` dimensions.

    The other features are noise.  class_sep: half the side of the cube.  flip_y: the share of
    labels that are drawn at random.
    """
    _check_generated(n_samples, n_classes, seed, n_features, class_sep=class_sep)
    _check_at_least("n_informative", n_informative, 1)
    if n_informative > n_features:
        raise ParameterError("n_informative", f"must be at most n_features, {n_features}")
    if 2 * n_classes > 2 ** min(n_informative, 64):
        raise ParameterError(
            "n_informative", f"must be larger for {n_classes} classes: two corners each"
        )
    require("flip_y", flip_y, 0 <= flip_y <= 1, "in [0, 1]")
    from sklearn.datasets import make_classification

    X, y = make_classification(
        n_samples,
        n_features,
        n_informative=n_informative,
        n_redundant=0,
        n_classes=n_classes,
        class_sep=class_sep,
        flip_y=flip_y,
        random_state=seed,
    )
    return _generated("classification", X, y, n_classes)


def openml(*, id: str, target: str | None = None) -> Dataset:
    """The data set of openml.org with this name or number; `target` names another target column."""
    named = re.fullmatch(r"[\w.-]*\w[\w.-]*", id, re.ASCII)  # part of a path in the cache
    require("id", repr(id), bool(named), "the name or the number of a data set on openml.org")
    arrays = downloads.fetch("openml", id, target or "")
    if "X" in arrays:
        X = arrays["X"].astype(np.float64)
    else:
        from scipy.sparse import csr_matrix

        parts = arrays["X_data"], arrays["X_indices"], arrays["X_indptr"]
        X = csr_matrix(parts, shape=tuple(arrays["X_shape"]), dtype=np.float64)
    y, classes = arrays["y"], None
    if y.dtype.kind == "U":
        if y.ndim != 1:
            raise DataError(f"openml {id}: has several class targets; name one with data.target")
        labels, y = np.unique(y, return_inverse=True)
        classes = tuple(labels.tolist())
    names = tuple(arrays["feature_names"].tolist())
    dtype = np.float64 if classes is None else np.int64
    return Dataset(f"openml:{id}", X, y.astype(dtype), classes=classes, feature_names=names)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist,
    "digits": digits,
    "iris": iris,
    "wine": wine,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "california": california,
    "covtype": covtype,
    "moons": moons,
    "circles": circles,
    "blobs": blobs,
    "classification": classification,
    "openml": openml,
    "csv": file,
    "file": file,
}


def load_dataset(name: str, **options: Any) -> Dataset:
    """Return the data set of that name in `DATASETS`, its function called with `options`.

    Raises ValueError for an unknown name or an option out of range, TypeError for an unknown
    option, DataError for data that cannot be had.
    """
    require("name", name, name in DATASETS, f"one of {', '.join(DATASETS)}")
    return DATASETS[name](**options)


def _bundled(name: str, bunch: Any, image_shape: tuple[int, int, int] | None = None) -> Dataset:
    if "target_names" in bunch:
        y, classes = bunch.target.astype(np.int64), tuple(bunch.target_names.tolist())
    else:
        y, classes = bunch.target.astype(np.float64), None
    X = np.ascontiguousarray(bunch.data, dtype=np.float64)
    names = tuple(str(feature) for feature in bunch.feature_names)
    return Dataset(name, X, y, classes=classes, feature_names=names, image_shape=image_shape)


def _downloaded(name: str) -> dict[str, np.ndarray]:
    try:
        return downloads.fetch(name)
    except DataError as error:
        raise DataError(
            f"{error}; scikit-learn downloads this data set once: try again with a connection, or "
            "set SCIKIT_LEARN_DATA to the scikit_learn_data folder of a machine that has it"
        ) from error


def _generated(name: str, X: np.ndarray, y: np.ndarray, n_classes: int) -> Dataset:
    return Dataset(name, X, y.astype(np.int64), classes=tuple(range(n_classes)))


def _check_at_least(name: str, value: int, minimum: int) -> None:
    require(name, value, value >= minimum, f"at least {minimum}")


def _check_generated(
    n_samples: int, n_classes: int, seed: int, n_features: int = 2, **deviations: float
) -> None:
    _check_at_least("n_classes", n_classes, 2)
    _check_at_least("n_samples", n_samples, n_classes)
    _check_at_least("n_features", n_features, 1)
    needed, available = 3 * 8 * (n_samples + n_classes) * n_features, memory_bytes()
    if available is not None and needed > available:  # X, its copies while it is made
        reason = f"rows of {n_features} numbers need {needed / 2**30:.3g} GiB of memory"
        raise ParameterError("n_samples", f"is too large: {n_samples} {reason}")
    require("seed", seed, 0 <= seed < 2**32, "in [0, 2**32)")
    for name, value in deviations.items():
        require(name, value, 0 <= value < np.inf, "finite and not negative")
