"""A trained model for elsewhere: ONNX, one C99 file, or one Python file that needs NumPy only.

What is written predicts as the model does: it is checked on rows before the file is kept.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.atomic import replace_file
from minidl.errors import ConfigError, MinidlError
from minidl.evaluation import class_probabilities
from minidl.export.graph import Value
from minidl.export.lowering import columns_of, lower, made_up_rows
from minidl.export.source import c_source, python_module
from minidl.kernels import Array
from minidl.predictor import Predictor

FORMATS = {"onnx": ".onnx", "c": ".c", "python": ".py"}  # with the suffixes of their files
TOLERANCE = 1e-5
TEST_ROWS = 100
STRICT = ("-Wall", "-Wextra", "-Werror", "-std=c99", "-O1")


class ExportError(MinidlError):
    """An exported model does not predict what the model predicts."""

    exit_code = 1


def export_model(
    predictor: Predictor, path: str | os.PathLike[str], format: str, rows: Any = None
) -> float | None:
    """Write the model to `path`; return the largest relative difference found.

    A difference is relative to the largest probability in its row; in a regression, whose values
    may be near 0, to the largest value in all rows.

    format: "onnx", "c" or "python".
    rows: raw rows to check on, (n_samples, n_features), labels of categories as their codes and
    dates in seconds from 1970; by default made up from what the preprocessing knows. Numbers are
    rounded to float32, which is what ONNX takes; where that matters, a warning says so.
    Returns None where a C file cannot be checked because there is no compiler.
    Raises ConfigError for a part of the model that cannot be exported, named, and where the extra
    is not installed; ExportError where predictions differ by more than 1e-5; CheckpointError where
    the disk refuses.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    output = lower(predictor, narrow=format == "onnx")
    rows = made_up_rows(predictor, TEST_ROWS) if rows is None else rows
    rows = np.array(rows[:TEST_ROWS], np.float64)
    exact = predicted(predictor, rows)
    plain = [column.kind != "date" for column in columns_of(predictor)]
    rows[:, plain] = rows[:, plain].astype(np.float32)
    expected = predicted(predictor, rows)
    scales = np.abs(expected).max(axis=1)
    if predictor.classes is None:
        scales[:] = scales.max()
    scales[scales == 0] = 1.0  # where all are 0
    rounding = float((np.abs(exact - expected).max(axis=1) / scales).max())
    if format == "onnx" and rounding > TOLERANCE:
        warnings.warn(
            "ONNX takes numbers in float32: rounding those of the rows that it was checked on "
            f"moves predictions by up to {rounding:.1e} of the largest",
            stacklevel=2,
        )
    found = difference = None
    if format == "onnx":
        content, found = _onnx(predictor, output, rows)
    elif format == "python":
        content = python_module(predictor, output).encode()
        text = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
        found = _printed("model.py", content, [sys.executable, "-I", "model.py"], given=text)
    else:
        content = c_source(predictor, output, rows, expected, TOLERANCE * scales).encode()
        if compiler := shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc"):
            build = [compiler, *STRICT, "-DMINIDL_TEST", "model.c", "-o", "model", "-lm"]
            found = _printed("model.c", content, build, ["./model"])
    if found is not None:
        differences = np.abs(found.reshape(expected.shape) - expected).max(axis=1) / scales
        difference = float(differences.max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path} is not written: its predictions differ from those of the model by "
                f"{difference:.1e} of the largest"
            )
    replace_file(Path(path), lambda file: file.write(content))
    return difference


def predicted(predictor: Predictor, rows: Array) -> Array:
    """Return what exported models return: probabilities of the classes, or predicted values."""
    with np.errstate(all="ignore"):
        p = np.asarray(predictor.loss_function.predict(predictor.outputs(rows)), np.float64)
    return p if predictor.classes is None else class_probabilities(p, len(predictor.classes))


def _onnx(predictor: Predictor, output: Value, rows: Array) -> tuple[bytes, Array]:
    try:
        from onnx.reference import ReferenceEvaluator

        from minidl.export.to_onnx import given_inputs, onnx_model
    except ImportError as error:
        raise ConfigError('ONNX needs an extra: pip install "minidl[onnx]"') from error
    content = onnx_model(predictor, output)
    with np.errstate(all="ignore"):
        found: Any = ReferenceEvaluator(content).run(None, given_inputs(predictor, rows))
    return content, found[-1]


def _printed(name: str, content: bytes, *commands: Sequence[str], given: str = "") -> Array:
    """Return the numbers that the last command prints, in a folder with a file of this name."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        for command in commands:
            done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True)
            if done.returncode and not done.stdout:
                lines = [line for line in done.stderr.splitlines() if "rror" in line]
                raise ExportError(f"the exported file fails: {' '.join(lines[:1])[:300]}")
    return np.array(done.stdout.replace(",", " ").split(), np.float64)
