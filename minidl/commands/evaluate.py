"""`minidl evaluate`: how a trained model does on rows whose targets are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.commands.arguments import Parser
from minidl.config import load_config
from minidl.errors import ConfigError, DataError
from minidl.kernels import Array
from minidl.report.metrics import Measures, measure_classification, measure_regression
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.trained import Trained
from minidl.terminal import say, warn


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a trained model."""
    parser = Parser(
        "evaluate",
        "Measure a trained model on the test part of its run, or on the rows of a file whose "
        "target column is filled. Intervals hold 95 % of the values on resampled rows.",
    )
    parser.add_argument("model", metavar="RUN|MODEL", help="a run folder, or a model file")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a file (default: the test part)")
    parser.add_argument("--target", metavar="COLUMN", help="default: that of the training")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    trained = Trained.find(options.model)
    if options.data is None:
        what, predicted, targets = _test_part(trained, options.model)
    else:
        what, predicted, targets = _file(trained, options.data, options.target)
    if targets.ndim == 2 and trained.classes is not None:
        raise ConfigError(f"{parser.prog}: rows with several labels cannot be measured yet")
    if trained.classes is None:
        measures = measure_regression(targets, predicted)
    else:
        measures = measure_classification(targets.astype(np.int64), predicted)
    if options.json:
        found = {"model": options.model, "data": what, **measures.as_dict(trained.classes)}
        say(json.dumps(found, indent=2, allow_nan=False))
    else:
        say(_text(measures, f"{options.model} on {what}", trained.classes or []), end="")
    return 0


def _test_part(trained: Trained, path: str) -> tuple[str, Array, Array]:
    """The test part of a run: what it is, the probabilities or predictions, and the targets."""
    folder = RunFolder(Path(path))
    if not folder.config.exists():
        raise ConfigError(f"{path}: a model file has no test part; name a file with rows")
    experiment = Experiment.build(load_config(folder.config))
    if experiment.test is None:
        raise ConfigError(f"{path}: the run set no test part aside; name a file with rows")
    test = experiment.test
    predicted, probabilities = trained.answers(test.X)
    what = f"the {len(test)} test rows of {experiment.dataset.name}"
    return what, predicted if probabilities is None else probabilities, test.y


def _file(trained: Trained, data: str, target: str | None) -> tuple[str, Array, Array]:
    """The rows of a file that have a target."""
    target = target or trained.data.get("target")
    if target is None:
        raise ConfigError("the model does not say what it predicts; name it by --target COLUMN")
    table = trained.table(data, target)
    targets = trained.targets(table, target)
    known = ~np.isnan(targets)
    if not known.any():
        raise DataError(f"{table.source}: the target {target!r} is missing in all rows")
    if n_gaps := int((~known).sum()):
        warn(f"{n_gaps} of {len(known)} rows have no target {target!r}: left out")
    found = trained.predict(table.taken(np.flatnonzero(known)))
    for message in trained.tally.messages():
        warn(message)
    predicted = found.predicted if found.probabilities is None else found.probabilities
    return f"the {int(known.sum())} rows of {data}", predicted, targets[known]


def _text(measures: Measures, title: str, labels: Sequence[str]) -> str:
    """The figures as tables, the most important one first."""
    lines = [title, ""]
    names = sorted(measures.values, key=lambda name: name != measures.headline)
    for name in names:
        low, high = measures.intervals.get(name, (None, None))
        interval = "" if low is None else f"   {low:.4f} to {high:.4f}"
        lines.append(f"{name.replace('_', ' '):<22} {measures.values[name]:>10.4f}{interval}")
    if measures.per_class:
        width = max(5, *(len(label) for label in labels))
        lines += ["", f"{'class':<{width}}  precision  recall      f1    rows"]
        for label, figures in zip(labels, measures.per_class, strict=True):
            lines.append(
                f"{label:<{width}}  {figures['precision']:>9.4f}  {figures['recall']:>6.4f}  "
                f"{figures['f1']:>6.4f}  {figures['n_samples']:>6}"
            )
        lines += ["", "confusion matrix: a row is a true class, a column a predicted one"]
        cells = max(len(str(count)) for row in measures.confusion for count in row)
        for label, row in zip(labels, measures.confusion, strict=True):
            lines.append(f"{label:<{width}}  " + " ".join(f"{count:>{cells}}" for count in row))
    return "\n".join(lines) + "\n"
