"""The estimators beside scikit-learn's MLP: 20 problems, several seeds, scores and times.

    python scripts/compare_sklearn.py [--seeds 5] [--max-iter 200] [--only NAME]

Each seed splits a problem anew and is the `random_state` of both. A problem counts as worse where
the mean difference of the test scores, ours minus theirs, is below minus two standard errors over
the seeds. Times are of `fit`, the best of two, both on one BLAS thread: with more, on a machine
that does anything else, scikit-learn is many times slower. Exit status 1 if the comparison is lost.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sklearn.neural_network as theirs
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from minidl import estimators as ours


class Problem(NamedTuple):
    """A data set, and what both estimators are given besides their defaults."""

    load: Callable[[], tuple[Any, Any]]
    parameters: dict[str, Any] = {}  # noqa: RUF012


def bundled(name: str) -> Callable[[], tuple[Any, Any]]:
    """The loader of a data set that comes with scikit-learn."""
    return lambda: getattr(datasets, f"load_{name}")(return_X_y=True)


def made(name: str, n_samples: int, **options: Any) -> Callable[[], tuple[Any, Any]]:
    """The loader of a generated data set."""
    make = getattr(datasets, f"make_{name}")
    return lambda: make(n_samples=n_samples, random_state=0, **options)[:2]


SGD = {"solver": "sgd", "learning_rate_init": 0.05}
CLASSIFICATION = {
    "iris": Problem(bundled("iris")),
    "wine": Problem(bundled("wine"), {"hidden_layer_sizes": (50, 50)}),
    "breast_cancer": Problem(bundled("breast_cancer"), {"early_stopping": True}),
    "digits": Problem(bundled("digits")),
    "digits_sgd": Problem(bundled("digits"), SGD),
    "digits_lbfgs": Problem(bundled("digits"), {"solver": "lbfgs", "hidden_layer_sizes": 30}),
    "moons": Problem(made("moons", 1000, noise=0.25)),
    "circles": Problem(made("circles", 1000, noise=0.1, factor=0.6), {"activation": "tanh"}),
    "blobs": Problem(made("blobs", 1500, n_features=8, centers=6, cluster_std=4.0)),
    "binary": Problem(made("classification", 3000, n_features=30, n_informative=15), SGD),
    "classes": Problem(
        made("classification", 2000, n_features=20, n_informative=12, n_classes=5),
        {"alpha": 1.0},
    ),
    "rings": Problem(made("gaussian_quantiles", 1500, n_features=6, n_classes=3)),
    "labels": Problem(made("multilabel_classification", 1000)),
}
REGRESSION = {
    "diabetes": Problem(bundled("diabetes"), {"early_stopping": True}),
    "linear": Problem(made("regression", 1000, n_features=15, noise=10.0)),
    "linear_lbfgs": Problem(
        made("regression", 500, n_features=10, noise=30.0), {"solver": "lbfgs", "alpha": 1.0}
    ),
    "friedman1": Problem(made("friedman1", 2000, noise=1.0)),
    "friedman2": Problem(made("friedman2", 1500, noise=50.0), {**SGD, "learning_rate_init": 0.01}),
    "friedman3": Problem(made("friedman3", 1500, noise=0.1), {"hidden_layer_sizes": (50, 50)}),
    "targets": Problem(made("regression", 800, n_features=10, n_targets=3, noise=20.0)),
}


def fitted(estimator: Any, X: Any, y: Any) -> tuple[Any, float]:
    """Fit twice; return the estimator and the shorter time in seconds."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        estimator.fit(X, y)
        times.append(time.perf_counter() - started)
    return estimator, min(times)


def compare(name: str, problem: Problem, n_seeds: int, max_iter: int) -> tuple[Any, Any]:
    """Return the scores, (n_seeds, 2), and the times in seconds, (n_seeds, 2): ours and theirs."""
    kind = "MLPClassifier" if name in CLASSIFICATION else "MLPRegressor"
    X, y = problem.load()
    X = StandardScaler().fit_transform(X)
    if kind == "MLPRegressor":
        y = (y - y.mean(axis=0)) / y.std(axis=0)
    scores, times = np.zeros((n_seeds, 2)), np.zeros((n_seeds, 2))
    for seed in range(n_seeds):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed)
        for i, module in enumerate((ours, theirs)):
            estimator = getattr(module, kind)(
                random_state=seed, max_iter=max_iter, **problem.parameters
            )
            estimator, times[seed, i] = fitted(estimator, X_train, y_train)
            scores[seed, i] = estimator.score(X_test, y_test)
    return scores, times


def main() -> int:
    """Compare, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-iter", type=int, default=200)
    parser.add_argument("--only", choices=[*CLASSIFICATION, *REGRESSION])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    problems = {**CLASSIFICATION, **REGRESSION}
    names = [options.only] if options.only else list(problems)
    print(f"{'problem':14} {'score':>8} {'theirs':>8} {'difference':>11} {'2 s.e.':>8} {'time':>8}")
    differences, ratios, worse = [], [], []
    for name in names:
        with threadpool_limits(1):
            scores, times = compare(name, problems[name], options.seeds, options.max_iter)
        gain = scores[:, 0] - scores[:, 1]
        margin = 2 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        differences.append(gain.mean())
        ratios.append(times[:, 0].sum() / times[:, 1].sum())
        if gain.mean() < -margin - 1e-12:
            worse.append(name)
        ours_mean, theirs_mean = scores.mean(axis=0)
        print(
            f"{name:14} {ours_mean:8.4f} {theirs_mean:8.4f} {gain.mean():+11.5f} {margin:8.5f} "
            f"{ratios[-1]:7.2f}x",
            flush=True,
        )
    mean_gain, mean_ratio = float(np.mean(differences)), float(np.mean(ratios))
    print(f"mean difference {mean_gain:+.6f}, mean time {mean_ratio:.2f} of theirs")
    print(f"worse: {', '.join(worse) or 'none'}")
    return int(bool(worse) or mean_gain < -1e-4 or mean_ratio > 0.5)


if __name__ == "__main__":
    sys.exit(main())
