"""What a model gives for rows that it is not trained on: its outputs, its loss and its metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.data.batches import Transform
from minidl.losses import Head
from minidl.model import Sequential
from minidl.optimizers import Array

ROWS_AT_ONCE = 1024


def evaluate(
    model: Sequential,
    head: Head,
    X: Any,
    y: Array,
    sample_weight: Array | None = None,
    *,
    transform: Transform | None = None,
) -> dict[str, float]:
    """Return {"loss": ..., and the head's metrics} of the model on X, (n_samples, n_in), and y."""
    outputs = predict_outputs(model, X, transform=transform)
    loss, _ = head(outputs, y, sample_weight)
    return {"loss": loss, **head.metrics(outputs, y, sample_weight)}


def predict_outputs(model: Sequential, X: Any, *, transform: Transform | None = None) -> Array:
    """Return the model's outputs for X, a bounded number of rows at a time."""
    parts = []
    for start in range(0, max(1, X.shape[0]), ROWS_AT_ONCE):
        x = X[start : start + ROWS_AT_ONCE]
        parts.append(model.forward(x if transform is None else transform(x), train=False))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
