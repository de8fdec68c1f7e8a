"""Which weights a training keeps: averages over its steps, the best epoch, and when to stop."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.kernels import BLOCK, Array
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.progress import Progress

Vectors = dict[str, Array]  # of a model: "params" and "buffers", as in a state


@dataclass
class EarlyStopping:
    """Stop after `patience` epochs in which the monitored figure did not improve by `min_delta`."""

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        require("patience", self.patience, self.patience >= 1, "at least 1")
        require("min_delta", self.min_delta, 0 <= self.min_delta < np.inf, "at least 0")


class BestWeights:
    """The best weights of a model so far, judged by the validation rows after each epoch.

    monitor: the figure that is compared, "loss" or a metric of the loss function. NaN ranks last.
    early_stopping: when to stop; None to train all epochs.
    ema: decay, in (0, 1), of an exponential moving average of the weights over the steps, which is
    then validated and kept in place of the last ones; running statistics are averaged with them.

    d = min(ema, (1 + t) / (10 + t))
    average = d * average + (1 - d) * params

    t counts steps from 0; the short memory at the start forgets the random first weights.
    PyTorch's AveragedModel with get_ema_multi_avg_fn has no warm-up: it copies the parameters at
    the first update, and then d = decay.
    Polyak and Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(
        self,
        model: Sequential,
        loss_function: Loss,
        monitor: str,
        early_stopping: EarlyStopping | None,
        ema: float | None,
    ) -> None:
        require("ema", ema, ema is None or 0 < ema < 1, "in (0, 1)")
        figures = loss_function.figure_names()
        require("monitor", monitor, monitor in figures, f"one of {', '.join(figures)}")
        self.monitor, self.early_stopping, self.ema = monitor, early_stopping, ema
        self._sign = -1 if monitor in loss_function.lower_is_better else 1
        self._current = {"params": model.params, "buffers": model.buffers}
        self._average, self._n_updates = _copied(self._current) if ema else {}, 0
        self.kept: Vectors | None = None

    def after_step(self) -> None:
        """Take the weights of one more step into the average."""
        if self.ema is None:
            return
        d = min(self.ema, (1 + self._n_updates) / (10 + self._n_updates))
        self._n_updates += 1
        for name, average in self._average.items():
            for first in range(0, average.size, BLOCK):
                part = slice(first, first + BLOCK)
                average[part] += (1 - d) * (self._current[name][part] - average[part])

    @contextmanager
    def candidate(self) -> Iterator[None]:
        """Let the model hold, inside the block, the weights that this epoch may keep."""
        last = _copied(self._current if self._average else {})
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(last)

    def judge(self, figures: Mapping[str, float], at: Progress) -> bool:
        """Keep the model's weights if this epoch's validation figures are the best so far.

        Returns whether they are. Notes in `at` the best score and epoch, and whether to stop.
        """
        score, best = figures[self.monitor] * self._sign, at.best_score
        stopping = self.early_stopping
        margin = 0.0 if stopping is None else stopping.min_delta
        better = best is None or score > best + margin  # None: nothing but NaN so far
        at.epochs_without_improvement = 0 if better else at.epochs_without_improvement + 1
        if stopping is not None:
            at.stopped_early = at.epochs_without_improvement >= stopping.patience
        improved = best is None or score > best
        if improved:
            self.keep()
            at.best_epoch = at.epoch
            if isfinite(score):
                at.best_score = score
        return improved

    def keep(self) -> None:
        """Keep the weights that the model has now."""
        self.kept = _copied(self._current)

    def use(self) -> None:
        """Put the kept weights into the model; where there are none, the averaged ones, if any."""
        self._fill(self._average if self.kept is None else self.kept)

    def state(self) -> dict[str, Any]:
        """Return the arrays that training goes on from; copy or write them before the next step."""
        state: dict[str, Any] = {}
        if self._average:
            state["average"] = {"n_updates": self._n_updates, **self._average}
        if self.kept is not None:
            state["best"] = self.kept
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` returned."""
        if self._average:
            self._n_updates = state["average"]["n_updates"]
            self._average = _copied({k: state["average"][k] for k in self._current})
        self.kept = _copied(state["best"]) if "best" in state else None

    def _fill(self, values: Vectors) -> None:
        for name, value in values.items():
            self._current[name][:] = value


def _copied(vectors: Mapping[str, Array]) -> Vectors:
    return {name: vector.copy() for name, vector in vectors.items()}
