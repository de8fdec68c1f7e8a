"""Schedules: the learning rate as a closed form of progress.

A schedule has no state, so a resumed run needs nothing but the number of its step. `SCHEDULES`
gives the name of each in a YAML file.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from minidl.errors import require


@dataclass(frozen=True)
class Schedule:
    """A factor of the base learning rate for each step; the base of all schedules.

    warmup: epochs, not necessarily whole, in which the factor first rises linearly to 1. The
    schedule itself starts after them. One that begins near 0 refuses a warmup: the rate would rise
    to 1, fall, and rise again.
    begins_low: whether the schedule itself begins near 0.
    depends_on_total: whether a longer run has other rates from the start; a finished run of such a
    schedule cannot be continued for more epochs as if these had been planned.

    Subclasses write `_at(t, epoch)`: t in (0, 1) is the middle of the step as a share of all steps,
    so that no step is wasted at a rate of 0; epoch counts from 0, with its fraction.
    """

    begins_low: ClassVar[bool] = False
    depends_on_total: ClassVar[bool] = False

    warmup: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        require("warmup", self.warmup, 0 <= self.warmup < math.inf, "at least 0 epochs")
        alone = "0 for a schedule that begins near 0 and rises by itself"
        require("warmup", self.warmup, not (self.begins_low and self.warmup), alone)

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return what the base rate is multiplied with in `step`, 0 to total_steps - 1."""
        first = round(self.warmup * steps_per_epoch)
        if step < first:
            return (step + 1) / first
        step, total_steps = step - first, total_steps - first
        return self._at((step + 0.5) / max(total_steps, step + 1), step / steps_per_epoch)

    def _at(self, t: float, epoch: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The base rate, throughout: factor = 1."""

    def _at(self, t: float, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Down by the factor gamma after every so many epochs.

    factor = gamma ** floor(epoch / every)
    """

    every: int = 10
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require("every", self.every, self.every >= 1, "at least 1 epoch")
        require("gamma", self.gamma, 0 < self.gamma <= 1, "in (0, 1]")

    def _at(self, t: float, epoch: float) -> float:
        return math.pow(self.gamma, math.floor(epoch / self.every))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """Down by the factor gamma in each epoch, smoothly.

    factor = gamma ** epoch

    epoch has a fraction: the rate falls with each step, where PyTorch's ExponentialLR falls once an
    epoch.
    """

    gamma: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        require("gamma", self.gamma, 0 < self.gamma <= 1, "in (0, 1]")

    def _at(self, t: float, epoch: float) -> float:
        return math.pow(self.gamma, epoch)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """Along a straight line from 1 to `final`.

    factor = 1 + (final - 1) * t
    """

    depends_on_total = True

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("final", self.final, 0 <= self.final <= 1, "in [0, 1]")

    def _at(self, t: float, epoch: float) -> float:
        return 1 + (self.final - 1) * t


@dataclass(frozen=True)
class Cosine(Schedule):
    """Along half a cosine from 1 to `final`.

    factor = final + (1 - final) * (1 + cos(pi * t)) / 2

    PyTorch's CosineAnnealingLR is the same curve at the start of each step, t = step / total_steps,
    and not at its middle.
    Loshchilov and Hutter, SGDR, 2017, without restarts.
    """

    depends_on_total = True

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("final", self.final, 0 <= self.final <= 1, "in [0, 1]")

    def _at(self, t: float, epoch: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A triangle: from 0 up to 1 at the share `peak` of training, and down to 0.

    factor = t / peak                   where t < peak
             (1 - t) / (1 - peak)       after it

    It has no `warmup`: its first part is one.
    PyTorch's OneCycleLR follows half a cosine up from 1/25 to 1 at the share 0.3, and half a cosine
    down to 1/250,000; it lowers the momentum while the rate is high.
    Smith and Topin, Super-Convergence, 2018.
    """

    begins_low = True
    depends_on_total = True

    peak: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require("peak", self.peak, 0 < self.peak < 1, "in (0, 1)")

    def _at(self, t: float, epoch: float) -> float:
        return t / self.peak if t < self.peak else (1 - t) / (1 - self.peak)


@dataclass(frozen=True)
class CosLog4(Schedule):
    """Four cosine cycles (or as many as `cycles`), each twice as long as the one before.

    factor = (1 - cos(2 * pi * log2(1 + (2**cycles - 1) * t))) / 2

    It begins near 0 and takes no `warmup`.
    So c of the 4 cycles are this schedule with cycles=c over (2**c - 1) / 15 of the epochs.
    Holzmüller, Grinsztajn and Steinwart, Better by Default (RealMLP), 2024.
    """

    begins_low = True
    depends_on_total = True

    cycles: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require("cycles", self.cycles, 1 <= self.cycles <= 30, "from 1 to 30")

    def _at(self, t: float, epoch: float) -> float:
        return (1 - math.cos(2 * math.pi * math.log2(1 + (2**self.cycles - 1) * t))) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": ExponentialDecay,
    "linear": LinearDecay,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "coslog4": CosLog4,
}
