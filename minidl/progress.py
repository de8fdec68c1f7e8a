"""What each epoch of a training gave, what it goes on from, and which states are possible.

A state comes from a file that somebody may have changed. `check_state` refuses one that no training
can be in, before any of it is used.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minidl.reprs import plain


class Epoch(dict[str, Any]):
    """What one epoch gave: attributes, and a row of a table, as in `pandas.DataFrame(epochs)`.

    epoch: from 1.  step: steps made since the start.  learning_rate: of the last step.
    train, validation: "loss" and the metrics of the loss function, by name. The training loss is
    the mean over the batches of the epoch, each before its step; metrics of training rows are
    there only where asked for. `validation` is empty without validation rows.
    seconds: of training and validation.  improved: whether these are the best weights so far.

    As a row, `epoch["validation_loss"]` is `epoch.validation["loss"]`.
    """

    # Not a data class: pandas before 3.1 would take its fields for the columns.
    def __init__(
        self,
        epoch: int,
        step: int,
        learning_rate: float,
        train: Mapping[str, float],
        validation: Mapping[str, float],
        seconds: float,
        improved: bool,
    ) -> None:
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate
        self.train, self.validation = train, validation
        self.seconds, self.improved = seconds, improved
        super().__init__(epoch=epoch, step=step, learning_rate=learning_rate)
        self.update((f"train_{name}", value) for name, value in train.items())
        self.update((f"validation_{name}", value) for name, value in validation.items())
        self.update(seconds=seconds, improved=improved)

    def __repr__(self) -> str:
        short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in self.items()}
        return f"Epoch({', '.join(f'{name}={value}' for name, value in short.items())})"


@dataclass
class Progress:
    """The position of a training: all of its state but arrays and generators."""

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


def check_state(
    state: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    rng: np.random.Generator,
    average_names: tuple[str, ...],
    first_step: int,
    epochs: int,
    bounds: Sequence[tuple[int, int]],
) -> Progress:
    """Return the progress of `state`; raise ValueError unless a training can be in this state.

    own: the current state of the training that is to take it over, whose arrays have the right
    shapes and dtypes.  average_names: of the arrays of the optimizer.  first_step: the number of
    the first step.  bounds: the first row of each batch of an epoch, and the one after its last.
    """
    _require(isinstance(state.get("progress"), Mapping), "it has no progress")
    defaults = asdict(Progress())
    _require_like(state["progress"], dict.fromkeys(defaults, ...), "progress")
    for name, value in state["progress"].items():
        _require(_is_like(value, name, defaults[name]), f"progress.{name} is {str(value)[:40]}")
    at = Progress(**state["progress"])
    done = at.epoch * len(bounds) + at.batch
    _require(at.batch < len(bounds) and at.epoch <= epochs, "it is beyond the last step")
    _require(at.epoch < epochs or at.batch == 0, "it is beyond the last step")
    _require(at.step == first_step + done, f"step {at.step} does not fit its epoch and batch")
    rows = bounds[at.batch][0]
    _require(at.epoch_weight == rows, f"batch {at.batch} begins after {rows} rows of its epoch")
    # A loss may be below 0 by rounding; no loss function of this package is by more.
    _require(at.epoch_loss >= -1e-3 * at.epoch_weight, "the loss of its epoch is negative")
    _require(at.batch > 0 or at.epoch_loss == at.seconds == 0, "its epoch has not begun")
    _require(max(at.best_epoch, at.epochs_without_improvement) <= at.epoch, "it counts too far")
    _require(not at.stopped_early or at.epochs_without_improvement, "it stopped without a reason")

    given, params = state.get("optimizer"), own["params"]
    has_averages = at.step > 0 or (isinstance(given, Mapping) and len(given) > 1)
    averages = dict.fromkeys(average_names if has_averages else (), params)
    vectors = {"params": params, "buffers": own["buffers"]}
    expected: dict[str, Any] = {**vectors, "optimizer": {"n_steps": at.step, **averages}}
    expected |= {"progress": ..., "rng": ...}  # checked by themselves
    if "average" in own:
        expected["average"] = {"n_updates": done, **vectors}
    if at.best_epoch > 0 or at.best_score is not None:
        expected["best"] = vectors
    _require_like(state, expected, "it")
    if "square" in averages:
        _require(state["optimizer"]["square"].min(initial=0) >= 0, "optimizer.square is negative")
    _require_generator(state["rng"], rng)
    return at


def _is_like(value: Any, name: str, default: Any) -> bool:
    """Whether a value of the progress is of the kind of its default, and in its range."""
    if isinstance(default, bool):
        return type(value) is bool
    if isinstance(default, int):
        return type(value) is int and 0 <= value < 2**63
    if value is None:
        return default is None
    least = -1e300 if name in ("epoch_loss", "best_score") else 0.0  # these may be negative
    return type(value) in (int, float) and least <= value < 1e300


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise ValueError(f"it is not a state of this training: {problem}")


def _require_like(value: Any, expected: Any, name: str) -> None:
    """Require the keys of a map, the shape and dtype of an array, and the value of a count."""
    if isinstance(expected, Mapping):
        _require(isinstance(value, Mapping), f"{name} is not a map")
        wrong = sorted(map(str, set(value) ^ set(expected)))
        _require(not wrong, f"{name} lacks or should not have {', '.join(wrong)[:100]}")
        for key, inner in expected.items():
            _require_like(value[key], inner, key if name == "it" else f"{name}.{key}")
    elif isinstance(expected, np.ndarray):
        fits = isinstance(value, np.ndarray) and value.shape == expected.shape
        fits = fits and value.dtype == expected.dtype
        problem = f"does not fit this model of {expected.size} {expected.dtype} numbers"
        _require(fits, f"{name} {problem}")
        _require(np.isfinite(value).all(), f"{name} is not finite")
    elif expected is not ...:
        fits = type(value) is int and value == expected
        _require(fits, f"{name} is {str(value)[:40]}, and not {expected}")


def _require_generator(value: Any, rng: np.random.Generator) -> None:
    """A state that a generator of this kind takes, with every number in its range."""
    probe = copy.deepcopy(rng.bit_generator)
    try:
        with warnings.catch_warnings():  # NumPy 1 warns of a number below 0, and wraps it around
            warnings.simplefilter("ignore", DeprecationWarning)
            probe.state = value
        fits = plain(probe.state) == plain(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        fits = False
    _require(fits, f"rng is not a state of {type(probe).__name__}")
