"""`minidl evaluate`: how a trained model does on rows whose targets are known."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.commands.arguments import Parser
from minidl.config import load_config
from minidl.data.tables import listed
from minidl.errors import ConfigError, DataError
from minidl.kernels import Array
from minidl.report.metrics import Measures, measure
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.trained import Trained
from minidl.terminal import DEFAULT_WIDTH, aligned, say, warn, width_of


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a trained model."""
    parser = Parser(
        "evaluate",
        "Measure a trained model on the test part of its run, or on the rows of a file whose "
        "target (or that of each label) is filled. Intervals hold 95 % of the values on resamples.",
    )
    parser.add_argument("model", metavar="RUN|MODEL", help="a run folder, or a model file")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a file (default: the test part)")
    parser.add_argument(
        "--target", metavar="COLUMN", action="append", default=[], help="default: as in training"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    trained = Trained.find(options.model)
    if options.data is None:
        what, outputs, targets = _test_part(trained, options.model)
    else:
        what, outputs, targets = _file(trained, options.data, options.target)
    loss_function = trained.predictor.loss_function
    try:
        loss_function.check_targets(targets, outputs.shape[1])
    except ValueError as error:
        raise DataError(f"{what}: {error}") from error
    measures = measure(loss_function, outputs, targets, trained.classes)
    if options.json:
        found = {"model": options.model, "data": what, **measures.as_dict()}
        say(json.dumps(found, indent=2, allow_nan=False))
    else:
        say(_text(measures, f"{options.model} on {what}"), end="")
    return 0


def _test_part(trained: Trained, path: str) -> tuple[str, Array, Array]:
    """The test part of a run: what it is, the outputs of the model, and the targets."""
    folder = RunFolder(Path(path))
    if not folder.config.exists():
        raise ConfigError(f"{path}: a model file has no test part; name a file with rows")
    experiment = Experiment(load_config(folder.config))
    if (test := experiment.test) is None:
        raise ConfigError(f"{path}: the run set no test part aside; name a file with rows")
    source = Path(experiment.dataset.source).name
    what = f"the {len(test.y)} test rows of {source}"
    return what, trained.predictor.outputs(test.X), test.y


def _file(trained: Trained, data: str, given: Sequence[str]) -> tuple[str, Array, Array]:
    """The rows of a file that have a target."""
    names = trained.target_names(given)
    table = trained.table(data, names)
    targets, named = trained.targets(table, names), listed(list(map(repr, names)))
    known = ~np.isnan(targets.reshape(len(targets), -1)).any(axis=1)
    if not known.any():
        raise DataError(f"{table.source}: the target {named} is missing in all rows")
    if n_gaps := int((~known).sum()):
        warn(f"{n_gaps} of {len(targets)} rows have no target {named}: left out")
    outputs = trained.outputs(table.taken(np.flatnonzero(known)), names)
    for message in trained.tally.messages():
        warn(message)
    dtype = np.float64 if trained.classes is None or len(names) > 1 else np.int64
    return f"the {len(outputs)} rows of {data}", outputs, targets[known].astype(dtype)


def _text(measures: Measures, title: str) -> str:
    """The figures as tables, the most important one first."""
    tables = [f"{title}\n", aligned(measures.rows(), right=True)]
    if measures.per_class:
        tables.append(aligned(measures.class_rows(), right=True))
    if measures.confusion:
        rows = zip(measures.per_class, measures.confusion, strict=True)
        matrix = aligned(([each["label"], *map(str, row)] for each, row in rows), right=True)
        note = f"a row is a true class, a column a predicted one\n{matrix}"
        if max(map(len, matrix.splitlines())) > (width_of(sys.stdout) or DEFAULT_WIDTH):
            note = "too wide for here; --json and the report hold it\n"
        tables.append(f"confusion matrix: {note}")
    return "\n".join(tables)
