"""Pictures of a training and of a trained model, each a matplotlib Figure.

scikit-learn's displays draw what they know. Nothing here uses pyplot's global state.
`Figure.savefig` writes a figure to a file, and a notebook shows it. Needs the extra
`minidl[report]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.calibration import CalibrationDisplay
from sklearn.inspection import PartialDependenceDisplay
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    PredictionErrorDisplay,
    RocCurveDisplay,
)

from minidl.errors import ConfigError
from minidl.kernels import Array

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ConfigError('pictures need matplotlib: pip install "minidl[report]"') from error

MOST_CLASSES = 20  # whose names and counts are written into a confusion matrix
MOST_POINTS = 2000  # of a scatter plot
MOST_IMAGES, IMAGES_IN_A_ROW = 24, 6
MOST_BARS = 20
WIDTH, HEIGHT = 6.4, 3.6  # inches

Row = Mapping[str, Any]  # of metrics.csv, or an `Epoch`


def learning_curves(epochs: Sequence[Row], best_epoch: int | None = None) -> Figure:
    """Draw the loss, and the first other metric, of each epoch; the best epoch is marked.

    epochs: the records of `minidl.fit`, or the rows of metrics.csv as dicts.
    """
    figure = _figure()
    shown = [name.partition("_")[2] for name in epochs[0] if name.startswith("train_")][:2]
    for axes, name in zip(np.ravel(figure.subplots(1, len(shown))), shown, strict=True):
        for part in ("train", "validation"):
            if f"{part}_{name}" in epochs[0]:
                _draw(axes, epochs, f"{part}_{name}", label=part)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"best: {best_epoch}")
        axes.set_ylabel(name.replace("_", " "))
        axes.legend()
    return figure


def learning_rates(epochs: Sequence[Row]) -> Figure:
    """Draw the learning rate of the last step of each epoch."""
    figure = _figure(HEIGHT / 1.5)
    axes = figure.subplots()
    _draw(axes, epochs, "learning_rate")
    axes.set_ylim(0, None)
    return figure


def overlaid_curves(runs: Mapping[str, Sequence[Row]], column: str) -> Figure:
    """Draw one column of metrics.csv for several runs, by the names of the runs."""
    figure = _figure()
    axes = figure.subplots()
    for name, epochs in runs.items():
        if epochs and column in epochs[0]:
            _draw(axes, epochs, column, label=_short(name, 40))
    if axes.lines and len(axes.lines) <= MOST_BARS:
        axes.legend(fontsize="small")
    return figure


def confusion_matrix(counts: Any, classes: Sequence[Any]) -> Figure:
    """Draw a confusion matrix: one row a true class, one column a predicted one.

    counts: (n_classes, n_classes).
    """
    small, side = len(classes) <= MOST_CLASSES, min(7.0, 4.5 + 0.2 * len(classes))
    figure = _figure(side, side)
    axes = figure.subplots()
    labels = [_short(each, 16) for each in classes] if small else None
    display = ConfusionMatrixDisplay(np.asarray(counts), display_labels=labels)
    display.plot(ax=axes, cmap="Blues", colorbar=False, include_values=small, values_format="d")
    if small:
        axes.tick_params(axis="x", labelrotation=90)
    return figure


def calibration(labels: Array, probabilities: Array) -> Figure:
    """Draw how often a prediction is right against its probability.

    labels: class numbers, (n_samples,).  probabilities: (n_samples, n_classes).
    """
    figure = _figure(width=WIDTH * 0.7)
    axes = figure.subplots()
    confidence = probabilities.max(axis=1).clip(0, 1)
    right = (probabilities.argmax(axis=1) == labels).astype(int)
    CalibrationDisplay.from_predictions(right, confidence, n_bins=10, pos_label=1, ax=axes)
    axes.set(xlabel="probability of the predicted class", ylabel="share of right predictions")
    if (legend := axes.get_legend()) is not None:
        legend.remove()
    return figure


def roc_and_precision_recall(labels: Array, scores: Array) -> Figure:
    """Draw the ROC and the precision-recall curve of two classes.

    labels: 0 or 1, (n_samples,).  scores: the probability of class 1.
    """
    figure = _figure()
    left, right = figure.subplots(1, 2)
    RocCurveDisplay.from_predictions(labels, scores, ax=left)
    PrecisionRecallDisplay.from_predictions(labels, scores, ax=right)
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision")
    return figure


def mistakes(
    images: Array,
    labels: Array,
    probabilities: Array,
    classes: Sequence[Any],
    image_shape: tuple[int, int, int],
) -> Figure | None:
    """Show the images that are wrong with the highest probability; None where none is wrong.

    images: (n_samples, n_pixels).  image_shape: (height, width, channels).
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_IMAGES]
    if not wrong.size:
        return None
    titles = [
        f"{_short(classes[labels[i]], 11)}\nnot {_short(classes[predicted[i]], 9)}\n"
        f"{100 * confidence[i]:.0f} %"
        for i in wrong
    ]
    shown = np.asarray(images[wrong], np.float64)
    return _gallery(shown, image_shape, (shown.min(), shown.max()), "gray", titles)


def first_layer_weights(W: Array, image_shape: tuple[int, int, int]) -> Figure:
    """Show the weights of the units with the largest weights of a first layer as images.

    W: (n_pixels, n_units); red is positive, blue negative.
    """
    largest = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:MOST_IMAGES]
    shown = np.asarray(W[:, largest].T, np.float64)
    span = np.abs(shown).max()
    return _gallery(shown, image_shape, (-span, span), "RdBu_r")


def importances(
    mean: Array, std: Array, names: Sequence[str], score: str, *, most: int = MOST_BARS
) -> Figure:
    """Draw how much a score falls when a column is shuffled, with its deviation over shuffles.

    mean, std: (n_features,), as `sklearn.inspection.permutation_importance` gives them.
    """
    order = np.argsort(mean, kind="stable")[-most:]
    figure = _figure(1.0 + 0.25 * len(order))
    axes = figure.subplots()
    places = range(len(order))  # equal names would share one bar
    axes.barh(
        places, mean[order], xerr=std[order], tick_label=[_short(names[i], 30) for i in order]
    )
    axes.set_xlabel(f"loss of {score.replace('_', ' ')} when the column is shuffled")
    return figure


def partial_dependence(
    estimator: Any, X: Array, columns: Sequence[int], names: Sequence[str]
) -> Figure:
    """Draw how the mean prediction changes with each of a few columns, the others as they are.

    estimator: fitted, of two classes or a regression.  X: (n_samples, n_features).
    """
    figure = _figure(HEIGHT / 1.3)
    all_axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    PartialDependenceDisplay.from_estimator(
        estimator,
        X,
        list(columns),
        feature_names=[_short(name, 16) for name in names],
        grid_resolution=20,
        ax=all_axes,
    )
    for axes in all_axes:
        axes.set_ylabel("mean prediction" if axes is all_axes[0] else "")
    return figure


def residuals(targets: Array, predictions: Array) -> Figure:
    """Draw predictions against targets, and the residuals against the predictions."""
    every = math.ceil(len(targets) / MOST_POINTS)
    figure = _figure()
    kinds = ("actual_vs_predicted", "residual_vs_predicted")
    for axes, kind in zip(figure.subplots(1, 2), kinds, strict=True):
        PredictionErrorDisplay.from_predictions(
            targets[::every],
            predictions[::every],
            kind=kind,
            subsample=None,
            ax=axes,
            scatter_kwargs={"s": 6, "alpha": 0.5, "rasterized": True},
        )
        for axis in (axes.xaxis, axes.yaxis):  # scikit-learn's ticks are no round numbers
            axis.set_major_locator(MaxNLocator(5))
    return figure


def _figure(height: float = HEIGHT, width: float = WIDTH) -> Figure:
    return Figure((width, height), layout="constrained")


def _draw(axes: Any, epochs: Sequence[Row], column: str, label: str | None = None) -> None:
    """Draw one column over the epochs."""
    values = [float(row[column] or "nan") for row in epochs]
    marker = "." if len(values) <= MOST_BARS else None  # a single epoch has no line
    axes.plot([int(row["epoch"]) for row in epochs], values, marker=marker, label=label)
    axes.set(xlabel="epoch", ylabel=column.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _gallery(
    images: Array,
    image_shape: tuple[int, int, int],
    bounds: tuple[float, float],
    cmap: str,
    titles: Sequence[str] = (),
) -> Figure:
    """Show images, (n, n_pixels), side by side: one picture of all, since axes take time."""
    height, width, channels = image_shape
    n_rows = math.ceil(len(images) / IMAGES_IN_A_ROW)
    gap = math.ceil(width / 12)
    above = gap if not titles else math.ceil(0.55 * width)
    tall, wide = height + above, width + gap
    sheet = np.full((n_rows * tall, IMAGES_IN_A_ROW * wide - gap, channels), np.nan)
    figure = _figure(WIDTH * sheet.shape[0] / sheet.shape[1])
    axes = figure.subplots()
    axes.axis("off")
    for i, image in enumerate(images):
        top, left = i // IMAGES_IN_A_ROW * tall, i % IMAGES_IN_A_ROW * wide
        sheet[top : top + height, left : left + width] = image.reshape(image_shape)
    low, high = bounds
    if channels == 3:
        sheet = np.nan_to_num((sheet - low) / ((high - low) or 1.0), nan=1.0)
    axes.imshow(sheet if channels == 3 else sheet[:, :, 0], cmap=cmap, vmin=low, vmax=high)
    for i, title in enumerate(titles):
        top, left = i // IMAGES_IN_A_ROW * tall, i % IMAGES_IN_A_ROW * wide
        axes.text(left + width / 2, top + height, title, ha="center", va="top", fontsize=9)
    return figure


def _short(name: Any, length: int) -> str:
    """Return a name as plain text of bounded length; `$` would begin a formula."""
    text = "".join(c if c.isprintable() else " " for c in str(name)).replace("$", r"\$")
    return text if len(text) <= length else f"{text[: length - 1]}…"
