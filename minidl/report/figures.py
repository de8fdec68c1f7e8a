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
MOST_IMAGES = 24
MOST_BARS = 20
WIDTH, HEIGHT = 6.4, 3.6  # inches

Row = Mapping[str, Any]  # of metrics.csv, or an `Epoch`


def learning_curves(epochs: Sequence[Row], best_epoch: int | None = None) -> Figure:
    """Draw the loss, and the first other metric, of each epoch; the best epoch is marked.

    epochs: the records of `minidl.fit`, or the rows of metrics.csv as dicts.
    """
    names = [name.partition("_")[2] for name in epochs[0] if name.startswith("train_")]
    figure = Figure((WIDTH, HEIGHT), layout="constrained")
    shown = names[:2]
    for axes, name in zip(np.ravel(figure.subplots(1, len(shown))), shown, strict=True):
        for part in ("train", "validation"):
            if f"{part}_{name}" in epochs[0]:
                axes.plot(*_curve(epochs, f"{part}_{name}"), label=part)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"best: {best_epoch}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def learning_rates(epochs: Sequence[Row]) -> Figure:
    """Draw the learning rate of the last step of each epoch."""
    figure = Figure((WIDTH, HEIGHT / 1.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_curve(epochs, "learning_rate"))
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def overlaid_curves(runs: Mapping[str, Sequence[Row]], column: str) -> Figure:
    """Draw one column of metrics.csv for several runs, by the names of the runs."""
    figure = Figure((WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    for name, epochs in runs.items():
        if epochs and column in epochs[0]:
            axes.plot(*_curve(epochs, column), label=_short(name, 40))
    axes.set(xlabel="epoch", ylabel=column.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines and len(axes.lines) <= MOST_BARS:
        axes.legend(fontsize="small")
    return figure


def confusion_matrix(counts: Any, classes: Sequence[Any]) -> Figure:
    """Draw a confusion matrix: one row a true class, one column a predicted one.

    counts: (n_classes, n_classes).
    """
    n = len(classes)
    small = n <= MOST_CLASSES
    side = min(7.0, 2.5 + 0.4 * n)
    figure = Figure((side, side), layout="constrained")
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
    figure = Figure((WIDTH * 0.7, HEIGHT), layout="constrained")
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
    figure = Figure((WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    RocCurveDisplay.from_predictions(labels, scores, ax=left)
    PrecisionRecallDisplay.from_predictions(labels, scores, ax=right)
    for axes, x, y in (
        (left, "false positive rate", "true positive rate"),
        (right, "recall", "precision"),
    ):
        axes.set(xlabel=x, ylabel=y)
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
        f"{_short(classes[labels[i]], 9)}, not {_short(classes[predicted[i]], 9)}\n"
        f"{100 * confidence[i]:.0f} %"
        for i in wrong
    ]
    return _gallery([images[i] for i in wrong], image_shape, titles)


def first_layer_weights(W: Array, image_shape: tuple[int, int, int]) -> Figure:
    """Show the weights of the units with the largest weights of a first layer as images.

    W: (n_pixels, n_units); red is positive, blue negative.
    """
    largest = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:MOST_IMAGES]
    span = float(np.abs(W[:, largest]).max()) or 1.0
    shown = [(W[:, unit] / span + 1) / 2 for unit in largest]
    return _gallery(shown, image_shape, None, cmap="RdBu_r")


def importances(
    mean: Array, std: Array, names: Sequence[str], score: str, *, most: int = MOST_BARS
) -> Figure:
    """Draw how much a score falls when a column is shuffled, with its deviation over shuffles.

    mean, std: (n_features,), as `sklearn.inspection.permutation_importance` gives them.
    """
    order = np.argsort(mean, kind="stable")[-most:]
    figure = Figure((WIDTH, 1.0 + 0.25 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.barh([_short(names[i], 30) for i in order], mean[order], xerr=std[order])
    axes.set(xlabel=f"loss of {score.replace('_', ' ')} when the column is shuffled")
    return figure


def partial_dependence(
    estimator: Any, X: Array, columns: Sequence[int], names: Sequence[str]
) -> Figure:
    """Draw how the mean prediction changes with each of a few columns, the others as they are.

    estimator: fitted, of two classes or a regression.  X: (n_samples, n_features).
    """
    figure = Figure((WIDTH, HEIGHT / 1.3), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    PartialDependenceDisplay.from_estimator(
        estimator,
        X,
        list(columns),
        feature_names=[_short(name, 24) for name in names],
        grid_resolution=20,
        ax=axes,
    )
    for one in axes:
        one.set_ylabel("")
    axes[0].set_ylabel("mean prediction")
    return figure


def residuals(targets: Array, predictions: Array) -> Figure:
    """Draw predictions against targets, and the residuals against the predictions."""
    every = max(1, math.ceil(len(targets) / MOST_POINTS))
    figure = Figure((WIDTH, HEIGHT), layout="constrained")
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
    return figure


def _curve(epochs: Sequence[Row], column: str) -> tuple[list[int], list[float]]:
    return [int(row["epoch"]) for row in epochs], [float(row[column] or "nan") for row in epochs]


def _gallery(
    images: Sequence[Array],
    image_shape: tuple[int, int, int],
    titles: Sequence[str] | None,
    cmap: str = "gray",
) -> Figure:
    columns = 6
    rows = math.ceil(len(images) / columns)
    figure = Figure((WIDTH, (1.35 if titles else 1.0) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    low = min(float(np.min(image)) for image in images)
    high = max(float(np.max(image)) for image in images)
    for i, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        pixels = np.reshape(image, image_shape).astype(np.float64)
        bounds = {"vmin": 0.0, "vmax": 1.0} if cmap != "gray" else {"vmin": low, "vmax": high}
        if image_shape[2] == 3:
            pixels = (pixels - low) / ((high - low) or 1.0)
        axes.imshow(pixels if image_shape[2] == 3 else pixels[:, :, 0], cmap=cmap, **bounds)
        if titles:
            axes.set_title(titles[i], fontsize=7)
    return figure


def _short(name: Any, length: int) -> str:
    """Return a name as plain text of bounded length; `$` would begin a formula."""
    text = "".join(c if c.isprintable() else " " for c in str(name)).replace("$", r"\$")
    return text if len(text) <= length else f"{text[: length - 1]}…"
