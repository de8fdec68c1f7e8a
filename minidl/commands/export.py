"""`minidl export`: a trained model as ONNX, C99 or Python."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.commands.arguments import Parser, refuse_existing
from minidl.config import load_config
from minidl.errors import ConfigError, DataError
from minidl.export import FORMATS, TEST_ROWS, export_model
from minidl.kernels import Array
from minidl.runs.folder import RunFolder
from minidl.runs.trained import Trained
from minidl.terminal import say, warn


def export(arguments: Sequence[str]) -> int:
    """Export a trained model."""
    parser = Parser(
        "export",
        "Write a trained model, with its preprocessing, for use without minidl. It is checked on "
        "rows of the run's data, or for a model file on made-up rows, before the file is kept.",
    )
    parser.add_argument("model", metavar="RUN|MODEL", help="a run folder, or a model file")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument("--out", metavar="FILE", help="default: model with the format's suffix")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    predictor, folder = Trained.find(options.model).predictor, RunFolder(Path(options.model))
    stem = folder.model.stem if os.path.isdir(folder.path) else folder.path.stem
    out = Path(options.out or f"{stem}{FORMATS[options.format]}")
    refuse_existing(out, force=options.force)
    rows = _rows(folder) if os.path.isfile(folder.config) else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        difference = export_model(predictor, out, options.format, rows)
    for warning in caught:
        warn(str(warning.message))
    if difference is None:
        warn(f"{out} is not checked: there is no C compiler")
    else:
        say(f"{out} written; its predictions differ from the model's by {difference:.1e} at most")
    return 0


def _rows(folder: RunFolder) -> Array | None:
    """The first rows of the run's data; None where it is not there any more."""
    try:
        X = load_config(folder.config).data.dataset.build().X[:TEST_ROWS]
    except (ConfigError, DataError) as error:
        warn(f"the model is checked on made-up rows: {error}")
        return None
    return np.asarray(X if isinstance(X, np.ndarray) else X.toarray())
