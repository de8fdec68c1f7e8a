"""The report of one run: what was trained on what, how well, and pictures of it."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import permutation_importance

from minidl.config import dump, load_config
from minidl.data.batches import Rows
from minidl.evaluation import class_probabilities
from minidl.kernels import Array
from minidl.layers import Linear
from minidl.report import figures, page
from minidl.report.metrics import Measures, measure, metric_name
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder

IMPORTANCE_ROWS = 1000
IMPORTANCE_CELLS = 200_000  # rows times columns that are shuffled once
REPEATS = 5
MOST_CLASSES = 50  # in the table of classes
MOST_VARIED = 3  # columns whose partial dependence is drawn

# Of run.json: what the bits depend on, and nothing that differs between equal runs.
MACHINE = ("minidl", "python", "numpy", "blas", "kernels", "processor", "cores", "blas_threads")

Pictures = list[tuple[str, Any]]  # what is to be seen, and a figure or None


def write_report(folder: RunFolder, experiment: Experiment | None = None) -> None:
    """Write report.html into the folder of a finished run.

    experiment: of the run, with its final weights, if it is at hand.  Equal runs give equal bytes.
    Raises CheckpointError for a folder that cannot be read or written.
    """
    epochs, results = folder.outcome()
    if experiment is None:
        experiment = Experiment(load_config(folder.config))
        experiment.use_weights_of(folder.model)
    with experiment.threads():
        folder.write_text(folder.report, _html(experiment, folder, epochs, results))


def _html(experiment: Experiment, folder: RunFolder, epochs: Any, results: Any) -> str:
    dataset = experiment.dataset
    source = Path(dataset.source).name
    title = ": ".join(dict.fromkeys([experiment.config.name, source]))
    n_classes, n_epochs = dataset.n_classes, results.get("epochs", len(epochs))
    kind = f"{n_classes} classes" if dataset.is_classification else "regression"
    part = "validation" if experiment.test is None else "test"
    parts = [
        page.element("h1", title),
        page.element(
            "p",
            f"A multilayer perceptron of {experiment.model.params.size:,} parameters, trained for "
            f"{n_epochs} epoch{'s' * (n_epochs != 1)} on {len(experiment.train.y):,} rows of "
            f"{source} ({dataset.n_features:,} features, {kind}).",
        ),
    ]
    text = f"Learning curves; the training loss ends at {float(epochs[-1]['train_loss']):.4g}"
    curves = figures.learning_curves(epochs, results["best_epoch"])
    rates = "Learning rate over the epochs", figures.learning_rates(epochs)
    training = [page.element("h2", "Training"), page.pictures([(text, curves), rates])]
    if (rows := experiment.test or experiment.validation) is None:
        parts += training
    else:
        outputs = experiment.outputs(rows.X)
        measures = measure(experiment.loss_function, outputs, rows.y, dataset.classes)
        metrics = measures.rows()
        name, value, interval = metrics[0]
        interval = f"; 95 % interval {interval}" if interval else ""
        per_class = measures.class_rows()
        if len(per_class) > MOST_CLASSES + 1:
            per_class[0][0] += f" (the first {MOST_CLASSES} of {n_classes})"
        parts += [
            page.element("p", f"{name} {value}", class_="number"),
            page.element("p", f"on {len(rows.y):,} {part} rows{interval}", class_="soft"),
            *training,
            page.element("h2", f"Predictions on the {part} rows"),
            page.table([["metric", "value", "95 % interval"], *metrics]),
            page.pictures(_predictions(experiment, rows, outputs, measures)),
            page.table(per_class[: MOST_CLASSES + 1]) if per_class else "",
        ]
        if shown := _inside(experiment, rows, measures.headline):
            parts += [page.element("h2", "What the model looks at"), page.pictures(shown)]
    status = folder.status()
    parts += [
        page.element("h2", "Layers"),
        page.element("pre", experiment.model.summary()),
        page.element("h2", "Config"),
        page.element("pre", dump(experiment.config)),
        page.element("h2", "Machine"),
        page.table([["", ""], *((name, status[name]) for name in MACHINE if name in status)]),
        page.element("h2", "To repeat the run"),
        page.element("p", "In the folder of the run; equal machines give equal bits:"),
        page.element("pre", f"minidl train {folder.config.name}"),
    ]
    return page.page(title, parts)


def _predictions(
    experiment: Experiment, rows: Rows, outputs: Array, measures: Measures
) -> Pictures:
    classes, predicted = experiment.dataset.classes, experiment.loss_function.predict(outputs)
    if classes is None:
        if predicted.size != rows.y.size:  # several quantiles
            return []
        drawn = figures.residuals(rows.y.ravel(), predicted.ravel())
        return [("Predictions against targets, and their residuals", drawn)]
    if rows.y.ndim > 1:
        f1 = [row["f1"] for row in measures.per_class]
        return [("F1 by label", figures.f1_by_label(f1, classes))]
    p, error = class_probabilities(predicted, len(classes)), measures.values["calibration_error"]
    matrix = figures.confusion_matrix(measures.confusion, classes)
    shown: Pictures = [
        (f"Confusion matrix of {len(classes)} classes", matrix),
        (f"Calibration; the error is {error:.4f}", figures.calibration(rows.y, p)),
    ]
    if len(classes) == 2 and len(np.unique(rows.y)) == 2:
        curves = figures.roc_and_precision_recall(rows.y, p[:, 1])
        shown.append((f"ROC and precision-recall curves of class {classes[1]}", curves))
    if (shape := experiment.dataset.image_shape) is not None:
        images = rows.X.toarray() if hasattr(rows.X, "toarray") else rows.X
        wrong = figures.mistakes(images, rows.y, p, classes, shape)
        shown.append(("The most confident mistakes: true class, predicted class", wrong))
    return shown


def _inside(experiment: Experiment, rows: Rows, metric: str) -> Pictures:
    """Draw the first weights of images, or the importance of the columns of a table."""
    dataset = experiment.dataset
    if (shape := dataset.image_shape) is not None:
        first = next((e for e in experiment.model.layers if isinstance(e, Linear)), None)
        if first is None or first.W.shape[0] != int(np.prod(shape)):
            return []
        return [("Weights of the first layer", figures.first_layer_weights(first.W, shape))]
    n_columns, n_rows = dataset.n_features, len(rows.y)
    names = dataset.feature_names or tuple(f"column {j}" for j in range(n_columns))
    most = min(IMPORTANCE_ROWS, max(50, IMPORTANCE_CELLS // (REPEATS * n_columns)))
    chosen = np.arange(0, n_rows, max(1, n_rows // most))[:most]
    X, y, model = rows.X[chosen], rows.y[chosen], _Model(experiment, metric)
    if not isinstance(X, np.ndarray) or metric == "coverage":  # of quantiles, not to be maximized
        return []
    found = permutation_importance(model, X, y, n_repeats=REPEATS, random_state=0)
    mean, std = found.importances_mean, found.importances_std
    text = f"Permutation importance, {REPEATS} shuffles of each column; {names[mean.argmax()]}"
    bars = figures.importances(mean, std, names, metric_name(metric))
    shown: Pictures = [(f"{text} is the first", bars)]
    labels, X = dataset.categories or ((),) * n_columns, X.astype(np.float64)
    numbers = [
        j
        for j in np.argsort(-mean, kind="stable").tolist()
        if not labels[j] and np.isfinite(X[:, j]).all() and figures.has_dependence(X[:, j])
    ][:MOST_VARIED]
    if numbers and rows.y.ndim == 1 and dataset.n_classes in (None, 2):
        of = "" if dataset.classes is None else f" of class {dataset.classes[1]}"
        dates = () if dataset.schema is None else dataset.schema.dates
        curves = figures.partial_dependence(model, X, numbers, names, dates)
        text = f"Partial dependence{of} on the most important columns of numbers and dates"
        shown.append((text, curves))
    return shown


class _Model(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A trained experiment as scikit-learn's inspection wants an estimator: one number a row."""

    def __init__(self, experiment: Experiment, metric: str) -> None:
        self.experiment, self.metric, self.is_fitted_ = experiment, metric, True

    def fit(self, X: Any, y: Any) -> Self:
        """Return self: the model is trained."""
        return self

    def predict(self, X: Any) -> Array:
        """Return the last output: the probability of the second of two classes, or a value."""
        found: Array = self.experiment.loss_function.predict(self.experiment.outputs(X))[:, -1]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the metric, of which more is better."""
        return self.experiment.loss_function.metrics(self.experiment.outputs(X), y)[self.metric]
