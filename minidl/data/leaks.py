"""Columns that alone tell the target, as one does that is only known after it."""

from __future__ import annotations

import numpy as np

from minidl.data.dataset import Dataset
from minidl.data.tables import yaml_key

LEAST_ROWS, MOST_ROWS, MOST_COLUMNS = 50, 5000, 200
SCORE = 0.995


def leaks(data: Dataset) -> list[str]:
    """Return a note for each column of X that alone tells the target: it may be known too late.

    A small decision tree on one column is right in SCORE of the rows; or a column of numbers
    has the order of a regression's target.
    """
    from scipy.stats import rankdata
    from sklearn.tree import DecisionTreeClassifier

    rows = np.unique(np.linspace(0, len(data.y) - 1, MOST_ROWS).astype(np.int64))
    X, y = np.asarray(data.X)[rows], data.y[rows]
    names = data.feature_names or (data.schema.names if data.schema else ())
    if not 1 < X.shape[1] <= MOST_COLUMNS or len(rows) < LEAST_ROWS or y.ndim != 1:
        return []
    if data.classes is not None and len(data.classes) > len(rows) / 10:
        return []
    notes = []
    for j, name in enumerate(names):
        x = np.where(np.isnan(X[:, j]), np.nanmin(X[:, j], initial=0) - 1, X[:, j])
        if data.classes is None:
            ranks = rankdata(x), rankdata(y)
            score = 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else abs(np.corrcoef(*ranks)[0, 1])
            said = f"has the order of the target (rank correlation {score:.4f})"
        else:
            is_category = data.schema is not None and bool(data.schema.labels[j])
            n_labels = len(np.unique(x)) if is_category else 2
            if n_labels > len(rows) / 5:  # labels of few rows tell any target
                continue
            most = max(2 * len(data.classes), n_labels)
            tree = DecisionTreeClassifier(max_leaf_nodes=most, random_state=0)
            score = tree.fit(x[:, None], y).score(x[:, None], y)
            score *= np.bincount(y).max() < SCORE * len(y)
            said = f"alone tells the target in {score:.1%} of the rows"
        if score >= SCORE:
            notes.append(
                f"column {name!r} {said}: is it known before the target is? If not, set "
                f"data.drop: [{yaml_key(name)}]"
            )
    return notes
