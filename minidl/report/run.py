"""The report of one run: what was trained on what, how well, and pictures of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.inspection import permutation_importance

from minidl import kernels
from minidl.config import dump
from minidl.data.splits import Split
from minidl.kernels import Array
from minidl.layers import Linear
from minidl.report import figures, page
from minidl.report.metrics import Measures, measure_classification, measure_regression
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder

IMPORTANCE_ROWS = 1000
IMPORTANCE_CELLS = 200_000  # rows times columns that are shuffled once
REPEATS = 5
MOST_CLASSES = 50  # in the table of classes
MOST_VARIED = 3  # columns whose partial dependence is drawn

# Of run.json: what the bits depend on, and nothing that differs between equal runs.
MACHINE = ("minidl", "python", "numpy", "blas", "kernels", "processor", "cores", "blas_threads")

NAMES = {"r2": "R²", "rmse": "RMSE", "mae": "MAE", "roc_auc": "ROC AUC", "f1_macro": "macro F1"}
PERCENTAGES = ("accuracy", "balanced_accuracy")


def write_report(experiment: Experiment, folder: RunFolder) -> None:
    """Write report.html into the folder of a finished run.

    experiment: of the run, with its final weights.  Equal runs give equal bytes.
    Raises CheckpointError for a folder that cannot be written.
    """
    folder.write_text(folder.report, run_report(experiment, folder))


def run_report(experiment: Experiment, folder: RunFolder) -> str:
    """Return the HTML of the report of a finished run."""
    part, rows = _measured_part(experiment)
    threads = experiment.config.train.blas_threads
    with kernels.threads(threads if isinstance(threads, int) else None):
        return _Report(experiment, folder, part, rows).html()


class _Report:
    """The parts of one report, from top to bottom."""

    def __init__(
        self, experiment: Experiment, folder: RunFolder, part: str, rows: Split | None
    ) -> None:
        self.experiment, self.folder, self.part, self.rows = experiment, folder, part, rows
        self.epochs, self.results = folder.metrics.read(), folder.read_results()
        dataset = experiment.dataset
        self.source = dataset.name if dataset.path is None else Path(dataset.path).name
        self.classes = dataset.classes
        self.predictions: Array | None = None
        self.measures: Measures | None = None
        if rows is None:
            return
        outputs = experiment.loss_function.predict(experiment.outputs(rows.X))
        if self.classes is None:
            if outputs.shape == rows.y.reshape(len(rows), -1).shape:  # several quantiles are not
                self.predictions = outputs.reshape(rows.y.shape)
                self.measures = measure_regression(rows.y, self.predictions)
        elif rows.y.ndim == 1:
            single = outputs.shape[1] == 1
            self.predictions = np.hstack([1 - outputs, outputs]) if single else outputs
            self.measures = measure_classification(
                rows.y, self.predictions, intervals_of=("accuracy", "balanced_accuracy", "log_loss")
            )

    def html(self) -> str:
        """Return the whole page."""
        config = self.experiment.config
        title = ": ".join(dict.fromkeys([config.name, self.source]))
        parts = [page.element("h1", title), *self._summary()]
        parts += [page.element("h2", "Training"), page.pictures(self._training())]
        if self.measures is not None:
            parts += [page.element("h2", f"Predictions on the {self.part} rows"), self._figures()]
            parts += [page.pictures(self._predictions())]
            if self.measures.per_class:
                parts.append(self._per_class())
        if shown := [each for each in self._inside() if each[2] is not None]:
            parts += [page.element("h2", "What the model looks at"), page.pictures(shown)]
        parts += [
            page.element("h2", "Layers"),
            page.element("pre", self.experiment.model.summary()),
        ]
        parts += [page.element("h2", "Config"), page.element("pre", dump(config))]
        status = self.folder.status()
        machine = [(name, status[name]) for name in MACHINE if name in status]
        parts += [page.element("h2", "Machine"), page.table(["", ""], machine)]
        command = shlex.join(["minidl", "train", self.folder.config.name])
        parts += [
            page.element("h2", "To repeat the run"),
            page.element("p", "In the folder of the run; equal machines give equal bits:"),
            page.element("pre", command),
        ]
        return page.page(title, parts)

    def _summary(self) -> list[str]:
        experiment, results = self.experiment, self.results
        kind = "regression" if self.classes is None else f"{len(self.classes)} classes"
        sentence = (
            f"A multilayer perceptron of {experiment.model.params.size:,} parameters, trained for "
            f"{results.get('epochs', len(self.epochs))} epochs on {len(experiment.train):,} rows "
            f"of {self.source} ({experiment.dataset.n_features:,} features, {kind})."
        )
        summary = [page.element("p", sentence)]
        if self.measures is not None:
            number, interval = _headline(self.measures)
            count = f"{self.measures.n_samples:,} {self.part} rows"
            summary.append(page.element("p", number, class_="number"))
            summary.append(page.element("p", f"on {count}{interval}", class_="soft"))
        return summary

    def _training(self) -> list[tuple[str, str, Any]]:
        if not self.epochs:
            return []
        best = self.results.get("best_epoch")
        last = self.epochs[-1]
        alt = f"Learning curves: the training loss ends at {float(last['train_loss']):.4g}"
        return [
            ("Learning curves", alt, figures.learning_curves(self.epochs, best)),
            (
                "Learning rate",
                f"The learning rate over {len(self.epochs)} epochs",
                figures.learning_rates(self.epochs),
            ),
        ]

    def _figures(self) -> str:
        assert self.measures is not None
        rows = []
        for name, value in self.measures.values.items():
            low, high = self.measures.intervals.get(name, (None, None))
            interval = "" if low is None else f"{low:.4g} to {high:.4g}"
            rows.append((_name(name), value, interval))
        return page.table(["metric", "value", "95 % interval"], rows)

    def _predictions(self) -> list[tuple[str, str, Any]]:
        rows, measures, predictions = self.rows, self.measures, self.predictions
        assert rows is not None and measures is not None and predictions is not None
        if self.classes is None:
            flat = figures.residuals(rows.y.ravel(), predictions.ravel())
            return [("Predictions and residuals", "Predictions against targets", flat)]
        shown: list[tuple[str, str, Any]] = [
            (
                "Confusion matrix",
                f"Confusion matrix of {len(self.classes)} classes",
                figures.confusion_matrix(measures.confusion, self.classes),
            ),
            (
                "Calibration",
                f"Calibration error {measures.values.get('calibration_error', 0):.4f}",
                figures.calibration(rows.y, predictions),
            ),
        ]
        if len(self.classes) == 2 and len(np.unique(rows.y)) == 2:
            curves = figures.roc_and_precision_recall(rows.y, predictions[:, 1])
            positive = f"of class {self.classes[1]}"
            shown.append((f"ROC and precision-recall curves {positive}", "ROC curve", curves))
        shape = self.experiment.dataset.image_shape
        if shape is not None:
            images = rows.X.toarray() if hasattr(rows.X, "toarray") else rows.X
            wrong = figures.mistakes(images, rows.y, predictions, self.classes, shape)
            alt = "Images that are wrong with the highest probability"
            shown.append(("The most confident mistakes: true class, predicted class", alt, wrong))
        return shown

    def _per_class(self) -> str:
        assert self.measures is not None and self.classes is not None
        rows = [
            (label, each["precision"], each["recall"], each["f1"], each["n_samples"])
            for label, each in zip(self.classes, self.measures.per_class, strict=True)
        ]
        left_out = len(rows) - MOST_CLASSES
        note = f"The first {MOST_CLASSES} classes; {left_out} more are not shown."
        after = page.element("p", note, class_="soft") if left_out > 0 else ""
        titles = ["class", "precision", "recall", "F1", "rows"]
        return page.table(titles, rows[:MOST_CLASSES]) + after

    def _inside(self) -> list[tuple[str, str, Any]]:
        experiment, shape = self.experiment, self.experiment.dataset.image_shape
        if shape is not None:
            first = next((e for e in experiment.model.layers if isinstance(e, Linear)), None)
            if first is None or first.W.shape[0] != int(np.prod(shape)):
                return []
            drawn = figures.first_layer_weights(first.W, shape)
            return [("Weights of the first layer", "Weights of the first layer as images", drawn)]
        rows = self.rows
        if rows is None or self.measures is None or not isinstance(rows.X, np.ndarray):
            return []
        names = experiment.dataset.feature_names
        names = names or tuple(f"column {j}" for j in range(rows.X.shape[1]))
        score = "accuracy" if self.classes is not None else "r2"
        score = self.measures.headline if self.measures.headline in PERCENTAGES else score
        most = min(IMPORTANCE_ROWS, max(50, IMPORTANCE_CELLS // (REPEATS * rows.X.shape[1])))
        every = max(1, len(rows) // most)
        found = permutation_importance(
            _estimator(experiment),
            rows.X[::every][:most],
            rows.y[::every][:most],
            scoring=score,
            n_repeats=REPEATS,
            random_state=0,
        )
        drawn = figures.importances(
            found.importances_mean, found.importances_std, names, _name(score)
        )
        first_column = names[int(np.argmax(found.importances_mean))]
        alt = f"Importance of the columns; the most important is {first_column}"
        caption = f"Permutation importance, {REPEATS} shuffles of each column"
        shown: list[tuple[str, str, Any]] = [(caption, alt, drawn)]
        order = np.argsort(-found.importances_mean, kind="stable")
        labels = experiment.dataset.categories or ((),) * len(names)
        numbers = [int(j) for j in order if not labels[j] and _can_be_varied(rows.X[:most, j])]
        columns = numbers[:MOST_VARIED]
        if columns and (self.classes is None or len(self.classes) == 2) and rows.y.ndim == 1:
            X = rows.X[::every][:most].astype(np.float64)
            curves = figures.partial_dependence(_estimator(experiment), X, columns, names)
            of = "" if self.classes is None else f" of class {self.classes[1]}"
            caption = f"Partial dependence{of} on the most important columns"
            shown.append((caption, caption, curves))
        return shown


class _Model(BaseEstimator):  # type: ignore[misc]
    """A trained experiment as scikit-learn's inspection tools want an estimator."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.is_fitted_ = True

    def fit(self, X: Any, y: Any) -> _Model:
        """Return self: the model is trained."""
        return self

    def predict(self, X: Any) -> Array:
        """Return class numbers or values, from rows as the experiment has them."""
        found = self.experiment.loss_function.predict_targets(self.experiment.outputs(X))
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


class _Classifier(ClassifierMixin, _Model):  # type: ignore[misc]
    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.classes_ = np.arange(experiment.dataset.n_classes or 0)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes)."""
        p = self.experiment.loss_function.predict(self.experiment.outputs(X))
        return np.hstack([1 - p, p]) if p.shape[1] == 1 else p


class _Regressor(RegressorMixin, _Model):  # type: ignore[misc]
    pass


def _can_be_varied(column: Array) -> bool:
    return bool(np.isfinite(column).all()) and len(np.unique(column)) > 2


def _estimator(experiment: Experiment) -> _Model:
    is_classification = experiment.dataset.is_classification
    return _Classifier(experiment) if is_classification else _Regressor(experiment)


def _measured_part(experiment: Experiment) -> tuple[str, Split | None]:
    if experiment.test is not None:
        return "test", experiment.test
    return "validation", experiment.validation


def _headline(measures: Measures) -> tuple[str, str]:
    """Return the number to judge the model by, and its interval, as text."""
    name = (
        measures.headline if measures.headline in measures.values else next(iter(measures.values))
    )
    interval = measures.intervals.get(name)
    percent = name in PERCENTAGES

    def text(value: float) -> str:
        return f"{100 * value:.2f} %" if percent else f"{value:.4g}"

    shown = (
        "" if interval is None else f"; 95 % interval {text(interval[0])} to {text(interval[1])}"
    )
    return f"{_name(name)} {text(measures.values[name])}", shown


def _name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))
