"""What a training goes on from, and the one description of which states are possible.

A state comes from a file that somebody may have changed. `check_state` refuses one that no training
can be in, before any of it is used.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np

from minidl.kernels import Array


@dataclass
class Progress:
    """Where a training stands: everything but arrays and generators."""

    step: int = 0
    epoch: int = 0  # epochs completed
    batch: int = 0  # batches of the current epoch that are done
    epoch_loss: float = 0.0  # sum over the rows of the current epoch
    epoch_weight: float = 0.0  # rows of the current epoch that are done
    learning_rate: float = 0.0  # of the last step
    seconds: float = 0.0  # of the current epoch
    best_score: float | None = None
    best_epoch: int = 0
    epochs_without_improvement: int = 0
    stopped_early: bool = False

    @property
    def has_best(self) -> bool:
        """Whether some weights have been kept as the best so far."""
        return self.best_epoch > 0 or self.best_score is not None


def check_state(
    state: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    rng: np.random.Generator,
    average_names: tuple[str, ...],
    first_step: int,
    steps_per_epoch: int,
    epochs: int,
    n_rows: int,
) -> Progress:
    """Return the progress of `state`; raise ValueError unless a training can be in this state.

    own: the current state of the training that is to take it over, whose arrays have the right
    shapes and dtypes.  average_names: of the arrays of the optimizer.  first_step: the number of
    the first step.
    """
    params, buffers = own["params"], own["buffers"]
    _require(isinstance(state.get("progress"), Mapping), "it has no progress")
    at = _progress(state["progress"])
    done = at.epoch * steps_per_epoch + at.batch
    _require(at.batch < steps_per_epoch and at.epoch <= epochs, "it is at no step of this training")
    _require(at.epoch < epochs or at.batch == 0, "it is at no step of this training")
    _require(at.step == first_step + done, f"step {at.step} does not fit its epoch and batch")
    _require(at.batch <= at.epoch_weight <= n_rows, "the rows of its epoch do not fit its batch")
    # A loss may be below 0 by rounding; no loss function of this package is by more.
    _require(at.epoch_loss >= -1e-3 * at.epoch_weight, "the loss of its epoch is negative")
    _require(at.batch > 0 or at.epoch_loss == at.seconds == 0, "its epoch has not begun")
    _require(max(at.best_epoch, at.epochs_without_improvement) <= at.epoch, "it counts no epochs")

    expected = {"params", "buffers", "optimizer", "progress", "rng"} | ({"average"} & set(own))
    expected |= {"best"} if at.has_best else set()
    _require_keys(state, expected, "")
    _require_vectors(state, params, buffers, "")
    for part in {"average", "best"} & expected:
        counts = {"n_updates"} if part == "average" else set()
        _require_keys(state[part], {"params", "buffers"} | counts, part)
        _require_vectors(state[part], params, buffers, f"{part}.")

    optimizer = state["optimizer"]
    _require(isinstance(optimizer, Mapping), "it has no optimizer")
    names = set(average_names) if at.step or len(optimizer) > 1 else set()
    _require_keys(optimizer, {"n_steps"} | names, "optimizer")
    for name in names:
        _require_like(optimizer[name], params, f"optimizer.{name}")
        if name == "square":
            _require(optimizer[name].min(initial=0) >= 0, "optimizer.square is negative")
    _require_count(optimizer["n_steps"], at.step, "optimizer.n_steps")
    if "average" in expected:
        _require_count(state["average"]["n_updates"], done, "average.n_updates")
    _require_generator(state["rng"], rng)
    return at


def _progress(values: Mapping[str, Any]) -> Progress:
    """The progress of these values, each in its range by itself."""
    defaults = asdict(Progress())
    _require_keys(values, set(defaults), "progress")
    for name, default in defaults.items():
        value, kind = values[name], type(default)
        if kind is int:
            fits = type(value) is int and 0 <= value < 2**63
        elif kind is bool:
            fits = type(value) is bool
        elif value is None:
            fits = default is None
        else:  # a loss and a score may be negative
            least = -inf if name in ("epoch_loss", "best_score") else -5e-324
            fits = type(value) is not bool and isinstance(value, int | float)
            fits = fits and max(least, -1e300) < value < 1e300
        _require(fits, f"progress.{name} is {str(value)[:40]}")
    return Progress(**values)


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise ValueError(f"it is not a state of this training: {problem}")


def _require_keys(values: Any, expected: set[str], place: str) -> None:
    _require(isinstance(values, Mapping), f"{place} is no map")
    wrong = sorted(map(str, set(values) ^ expected))
    _require(not wrong, f"{place or 'it'} lacks or should not have {', '.join(wrong)[:100]}")


def _require_vectors(values: Mapping[str, Any], params: Array, buffers: Array, place: str) -> None:
    _require_like(values["params"], params, f"{place}params")
    _require_like(values["buffers"], buffers, f"{place}buffers")


def _require_like(array: Any, own: Array, name: str) -> None:
    fits = isinstance(array, np.ndarray) and (array.shape, array.dtype) == (own.shape, own.dtype)
    _require(fits, f"{name} does not fit this model of {own.size} {own.dtype} numbers")


def _require_count(value: Any, expected: int, name: str) -> None:
    fits = type(value) is int and value == expected
    _require(fits, f"{name} is {str(value)[:40]}, and not {expected}")


def _require_generator(value: Any, rng: np.random.Generator) -> None:
    """A state that a generator of this kind takes, with every number in its range."""
    probe = copy.deepcopy(rng.bit_generator)
    try:
        with warnings.catch_warnings():  # NumPy 1 warns of a number below 0, and wraps it around
            warnings.simplefilter("ignore", DeprecationWarning)
            probe.state = value
        fits = _plain(probe.state) == _plain(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        fits = False
    _require(fits, f"rng is no state of {type(probe).__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
