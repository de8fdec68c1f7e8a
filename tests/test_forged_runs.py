"""Checkpoints with a right hash whose contents were changed: one message, or the run goes on."""

import shutil
import warnings

import numpy as np
import pytest
from test_forgeries import VALUES, changed_arrays, forged, paths_of, put
from test_run import begin, end, stop_after  # noqa: F401 - begin is a fixture

from minidl import checkpoint
from minidl.archive import read_archive
from minidl.errors import CheckpointError, ConfigError, DataError, DivergenceError

TEXT = """
data: {name: iris}
model: [linear: 8, batch_norm, relu, dropout: 0.2, linear: auto]
train:
  epochs: 2
  batch_size: 16
  optimizer: {name: adamw, learning_rate: 0.01}
  ema: 0.9
  early_stopping: {patience: 2}
"""


def forgeries(arrays, document, n_values):
    """Arrays and documents of which each has one change."""
    rng = np.random.default_rng(0)
    for place in paths_of(document):
        chosen = rng.permutation(len(VALUES))[:n_values]
        for value in (..., *(VALUES[i] for i in chosen)):
            yield arrays, put(document, place, value)
    for name, array in arrays.items():
        rest = {key: arrays[key] for key in arrays if key != name}
        yield rest, document
        others = list(changed_arrays(array))
        for i in rng.permutation(len(others))[:n_values]:
            yield {**rest, name: others[i]}, document


def resume_all(begin, tmp_path, n_values):  # noqa: F811
    """Resume from each forgery to the end; return how many were refused."""
    stop_after(begin(TEXT), 9)
    last, previous = checkpoint.paths(tmp_path / "run" / "checkpoints")
    previous.unlink(missing_ok=True)
    arrays, document = read_archive(last, kind="checkpoint", newest_version=1)
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    refused = 0
    for changed in forgeries(arrays, document, n_values):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "kept", tmp_path / "run")
        forged(last, *changed, kind="checkpoint", version=1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                end(begin(TEXT), warn=lambda line: None)
        # Finite numbers that are too large cannot be told from those of a training: it diverges.
        except (CheckpointError, ConfigError, DataError, DivergenceError) as error:
            assert len(str(error).splitlines()) <= 3 and len(str(error)) < 1000
            refused += 1
    return refused


def test_a_changed_checkpoint_is_refused_or_goes_on(begin, tmp_path):  # noqa: F811
    assert resume_all(begin, tmp_path, 1) > 60


@pytest.mark.slow
def test_every_change_of_a_checkpoint_is_refused_or_goes_on(begin, tmp_path):  # noqa: F811
    assert resume_all(begin, tmp_path, 1000) > 400
