"""Pictures of a training and of a trained model, each a matplotlib Figure.

scikit-learn's displays draw what they know. Nothing here uses pyplot's global state.
`Figure.savefig` writes a figure to a file, and a notebook shows it. Needs the extra
`minidl[report]`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats.mstats import mquantiles
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
from minidl.report.metrics import metric_name

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ConfigError('pictures need matplotlib: pip install "minidl[report]"') from error

MOST_NAMED, MOST_COUNTED = 20, 12  # classes of a confusion matrix with names, and with counts
MOST_POINTS = 2000  # of a scatter plot
MOST_IMAGES = 24
MOST_BARS = 20
GRID = 20  # points of a partial dependence
WIDTH, HEIGHT = 4.4, 3.0  # inches: on a telephone, text of 10 points is then as large as there

Row = Mapping[str, Any]  # of metrics.csv, or an `Epoch`


def learning_curves(epochs: Sequence[Row], best_epoch: int | None = None) -> Figure:
    """Draw the loss, and the first other metric, of each epoch; the best epoch is marked.

    epochs: the records of `minidl.fit`, or the rows of metrics.csv as dicts.
    """
    shown = [name.partition("_")[2] for name in epochs[0] if name.startswith("train_")][:2]
    figure, all_axes = _figure(len(shown) * 2.2, n_rows=len(shown))
    for axes, name in zip(all_axes, shown, strict=True):
        for part in ("train", "validation"):
            if f"{part}_{name}" in epochs[0]:
                _draw(axes, epochs, f"{part}_{name}", label=part)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"best: {best_epoch}")
        axes.set(ylabel=metric_name(name), xlabel="epoch" if axes is all_axes[-1] else "")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def learning_rates(epochs: Sequence[Row]) -> Figure:
    """Draw the learning rate of the last step of each epoch."""
    figure, (axes,) = _figure(2.2)
    _draw(axes, epochs, "learning_rate")
    axes.set_ylim(0, None)
    return figure


def overlaid_curves(runs: Mapping[str, Sequence[Row]], column: str) -> Figure:
    """Draw one column of metrics.csv for several runs, by the names of the runs."""
    drawn = {name: epochs for name, epochs in runs.items() if epochs and column in epochs[0]}
    has_legend = 0 < len(drawn) <= MOST_BARS
    figure, (axes,) = _figure(HEIGHT + 0.2 * len(drawn) * has_legend)
    for i, (name, epochs) in enumerate(drawn.items()):
        style = "-" if i < 10 else "--"  # there are ten colours
        _draw(axes, epochs, column, label=_short(name, 40), linestyle=style)
    if has_legend:
        figure.legend(loc="outside lower left")
    return figure


def confusion_matrix(counts: Any, classes: Sequence[Any]) -> Figure:
    """Draw a confusion matrix: one row a true class, one column a predicted one.

    counts: (n_classes, n_classes).
    """
    n = len(classes)
    figure, (axes,) = _figure(WIDTH)
    ConfusionMatrixDisplay(np.asarray(counts)).plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        include_values=n <= MOST_COUNTED,
        values_format="d",
        text_kw={"fontsize": 10 if n <= 6 else 7.5},
    )
    named = range(0, n, math.ceil(n / MOST_NAMED))
    labels = [_short(classes[i], 16) for i in named]
    axes.set_xticks(named, labels, rotation=90)
    axes.set_yticks(named, labels)
    return figure


def f1_by_label(f1: Sequence[float], labels: Sequence[Any]) -> Figure:
    """Draw the F1 of each label, the best first."""
    order = np.argsort(f1, kind="stable")[-MOST_BARS:]
    figure, axes = _bars([f1[i] for i in order], [labels[i] for i in order])
    axes.set(xlabel="F1", xlim=(0, 1))
    return figure


def calibration(labels: Array, probabilities: Array) -> Figure:
    """Draw how often a prediction is right against its probability.

    labels: class numbers, (n_samples,).  probabilities: (n_samples, n_classes).
    """
    figure, (axes,) = _figure()
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
    figure, (above, below) = _figure(2 * HEIGHT, n_rows=2)
    RocCurveDisplay.from_predictions(labels, scores, ax=above)
    PrecisionRecallDisplay.from_predictions(labels, scores, ax=below)
    above.set(xlabel="false positive rate", ylabel="true positive rate")
    below.set(xlabel="recall", ylabel="precision")
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


def importances(mean: Array, std: Array, names: Sequence[str], score: str) -> Figure:
    """Draw how much a score falls when a column is shuffled, with its deviation over shuffles.

    mean, std: (n_features,), as `sklearn.inspection.permutation_importance` gives them.
    """
    order = np.argsort(mean, kind="stable")[-MOST_BARS:]
    figure, axes = _bars(mean[order], [names[i] for i in order], xerr=std[order])
    axes.set_xlabel(f"loss of {score} when shuffled")
    return figure


def has_dependence(values: Array) -> bool:
    """Whether `partial_dependence` can draw this column, (n_samples,) of float64.

    scikit-learn draws between the percentiles 5 and 95, and refuses a column, such as one that is
    mostly 0, where these are close to each other.
    """
    n_different = len(np.unique(values))
    ends = mquantiles(values, prob=(0.05, 0.95))
    return 2 < n_different < GRID or (n_different >= GRID and not np.allclose(*ends))


def partial_dependence(
    estimator: Any,
    X: Array,
    columns: Sequence[int],
    names: Sequence[str],
    dates: Sequence[int] = (),
) -> Figure:
    """Draw how the mean prediction changes with each of a few columns, the others as they are.

    estimator: fitted, of two classes or a regression.  X: (n_samples, n_features).
    dates: columns in seconds from 1970 in UTC, whose axis shows months.
    """
    figure, all_axes = _figure(2.2 * len(columns), n_rows=len(columns))
    PartialDependenceDisplay.from_estimator(
        estimator,
        X,
        list(columns),
        feature_names=[_short(name, 30) for name in names],
        grid_resolution=GRID,
        ax=all_axes,
    )
    for axes, column in zip(all_axes, columns, strict=True):
        axes.set_ylabel("mean prediction")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if column in dates:
            axes.xaxis.set_major_formatter(lambda s, _: str(np.datetime64(int(s), "s"))[:7])
    return figure


def residuals(targets: Array, predictions: Array) -> Figure:
    """Draw predictions against targets, and the residuals against the predictions."""
    every = math.ceil(len(targets) / MOST_POINTS)
    figure, all_axes = _figure(2 * HEIGHT, n_rows=2)
    kinds = ("actual_vs_predicted", "residual_vs_predicted")
    for axes, kind in zip(all_axes, kinds, strict=True):
        PredictionErrorDisplay.from_predictions(
            targets[::every],
            predictions[::every],
            kind=kind,
            subsample=None,
            ax=axes,
            scatter_kwargs={"s": 6, "alpha": 0.7, "rasterized": True},
        )
        for axis in (axes.xaxis, axes.yaxis):  # scikit-learn's ticks are no round numbers
            axis.set_major_locator(MaxNLocator(5))
    return figure


def _figure(height: float = HEIGHT, n_rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its axes, one below the other: a page is narrow on a telephone."""
    figure = Figure((WIDTH, height), layout="constrained")
    return figure, figure.subplots(n_rows, squeeze=False)[:, 0]


def _bars(values: Any, names: Sequence[Any], **options: Any) -> tuple[Figure, Any]:
    figure, (axes,) = _figure(0.8 + 0.25 * len(values))
    places = range(len(values))  # equal names would share one bar
    axes.barh(places, values, tick_label=[_short(name, 22) for name in names], **options)
    return figure, axes


def _draw(axes: Any, epochs: Sequence[Row], column: str, **options: Any) -> None:
    """Draw one column over the epochs."""
    values = [float(row[column] or "nan") for row in epochs]
    marker = "." if len(values) <= MOST_BARS else None  # a single epoch has no line
    axes.plot([int(row["epoch"]) for row in epochs], values, marker=marker, **options)
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
    n_columns = 4 if titles else 6
    n_rows, gap = math.ceil(len(images) / n_columns), math.ceil(width / 12)
    tall, wide = height + (math.ceil(0.7 * width) if titles else gap), width + gap
    cells = np.full((n_rows * n_columns, tall, wide, channels), np.nan)
    cells[: len(images), :height, :width] = images.reshape(-1, *image_shape)
    cells = cells.reshape(n_rows, n_columns, tall, wide, channels).swapaxes(1, 2)
    sheet = cells.reshape(n_rows * tall, n_columns * wide, channels)
    low, high = bounds
    if channels == 3:
        sheet = np.nan_to_num((sheet - low) / ((high - low) or 1.0), nan=1.0)
    figure, (axes,) = _figure(WIDTH * sheet.shape[0] / sheet.shape[1])
    axes.axis("off")
    axes.imshow(sheet if channels == 3 else sheet[:, :, 0], cmap=cmap, vmin=low, vmax=high)
    for i, title in enumerate(titles):
        row, column = divmod(i, n_columns)
        place = column * wide + width / 2, row * tall + height
        axes.text(*place, title, ha="center", va="top", fontsize=9)
    return figure


def _short(name: Any, length: int) -> str:
    """Return a name as plain text of bounded length; `$` would begin a formula."""
    text = "".join(c if c.isprintable() else " " for c in str(name)).replace("$", r"\$")
    return text if len(text) <= length else f"{text[: length - 1]}…"
