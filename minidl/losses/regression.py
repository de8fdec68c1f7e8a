"""Losses for numbers, and the unit in which their outputs count."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from minidl.errors import ParameterError, require
from minidl.kernels import Array
from minidl.losses.loss import Loss, Names, Weights, columns, require_targets
from minidl.losses.metrics import weighted_mean


@dataclass(frozen=True)
class ScaledLoss(Loss):
    """A regression whose outputs count in a unit of their own: prediction = center + scale * z.

    Below, t stands for (target - center) / scale, so a network may work with numbers around 1
    whatever the unit of the targets; metrics are in that of the targets.
    scale_targets: whether `fitted` takes center and scale, one each or one a target, from the
    training targets: their mean and standard deviation, or 1 where that is 0.
    """

    scale_targets: bool = field(default=False, kw_only=True)
    center: float | Sequence[float] = field(default=0.0, kw_only=True)
    scale: float | Sequence[float] = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        for name, lowest in (("center", -np.inf), ("scale", 0.0)):
            value = getattr(self, name)
            factors = np.asarray(value, np.float64)
            usable = factors.ndim < 2 and factors.size > 0 and np.isfinite(factors).all()
            kind = "finite" if name == "center" else "positive"
            expected = f"a {kind} number, or one for each target"
            require(name, value, bool(usable and (factors > lowest).all()), expected)

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless targets are finite and center and scale fit their number."""
        super().check_targets(targets, n_outputs)
        n_targets = 1 if targets.ndim == 1 else targets.shape[1]
        for name in ("center", "scale"):
            n = np.size(getattr(self, name))
            if n not in (1, n_targets):
                raise ParameterError(name, f"has {n} numbers for {n_targets} targets")

    def fitted(self, targets: Array) -> Self:
        """Return the loss with center and scale of these targets, where they are to be scaled."""
        if not self.scale_targets:
            return self
        t = columns(targets, np.float64)
        spread = np.ptp(t, axis=0)
        with np.errstate(over="ignore"):
            deviations = t.std(axis=0)
        usable = (deviations > 0) & np.isfinite(deviations)  # squares of 1e-200 are 0
        deviations = np.where(spread > 0, np.where(usable, deviations, spread), 1.0)
        return replace(self, center=t.mean(axis=0).tolist(), scale=deviations.tolist())

    def predict(self, logits: Array) -> Array:
        """Return center + scale * logits, in the dtype of the logits."""
        if self._is_plain:
            return logits
        y = np.asarray(self.center) + np.asarray(self.scale) * logits.astype(np.float64)
        return np.asarray(y.astype(logits.dtype))

    @property
    def _is_plain(self) -> bool:
        return self.center == 0.0 and self.scale == 1.0

    def _in_units(self, targets: Array, dtype: Any) -> Array:
        if self._is_plain:
            return columns(targets, dtype)
        t = (columns(targets, np.float64) - np.asarray(self.center)) / np.asarray(self.scale)
        return np.asarray(t.astype(dtype))


@dataclass(frozen=True)
class MSE(ScaledLoss):
    """Mean squared error, over rows and outputs.

    l_i     = mean_j (z_ij - t_ij)**2
    dlogits = 2 / n_outputs * (z - t) * w_i / total_weight

    No factor 1/2, as in PyTorch; scikit-learn's MLP has one.
    """

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return e * e, 2 * e


@dataclass(frozen=True)
class MAE(ScaledLoss):
    """Mean absolute error, over rows and outputs; predicts medians.

    l_i     = mean_j |z_ij - t_ij|
    dlogits = sign(z - t) / n_outputs * w_i / total_weight
    """

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return np.abs(e), np.sign(e)


@dataclass(frozen=True)
class Huber(ScaledLoss):
    """Half the squared error up to `delta`, and beyond it a straight line: robust to outliers.

    l_i     = mean_j e**2 / 2 where |e| <= delta, else delta * (|e| - delta / 2);  e = z_ij - t_ij
    dlogits = min(max(e, -delta), delta) / n_outputs * w_i / total_weight

    Huber, Robust Estimation of a Location Parameter, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("delta", self.delta, 0 < self.delta < np.inf, "positive")

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        slopes = np.clip(e, -self.delta, self.delta)
        return slopes * (e - slopes / 2), slopes


@dataclass(frozen=True)
class Pinball(ScaledLoss):
    """Pinball loss: predicts the value that a share `quantile` of the targets stays below.

    l_i     = mean_j max(q * (t - z), (1 - q) * (z - t))
    dlogits = ((1 - q) where z > t, -q where z < t, 0 where equal) / n_outputs * w_i / total_weight

    quantile: q in (0, 1); or several, then output j predicts the j-th of a single target.
    Koenker and Bassett, Regression Quantiles, 1978.
    """

    quantile: float | Sequence[float] = 0.5

    metric_names = ("mae",)

    def __post_init__(self) -> None:
        super().__post_init__()
        usable = self._q.ndim < 2 and self._q.size > 0 and np.all((0 < self._q) & (self._q < 1))
        require("quantile", self.quantile, bool(usable), "in (0, 1)")

    @property
    def _q(self) -> Array:
        return np.asarray(self.quantile, np.float64)

    def n_outputs(self, targets: Array) -> int:
        """Return the number of targets, or of quantiles where there are several."""
        n_targets = super().n_outputs(targets)
        if self._q.ndim and n_targets > 1:
            raise ParameterError("quantile", f"must be one number for {n_targets} targets")
        return self._q.size if self._q.ndim else n_targets

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Weights = None, extra: Names = ()
    ) -> dict[str, float]:
        """Return "coverage", the share of targets at or below the prediction, and "mae".

        For several quantiles, "coverage" is that of the interval from the first to the last.
        """
        y = self.predict(logits)
        t = columns(targets, y.dtype)
        below = t <= y
        if self._q.ndim and self._q.size > 1:
            below = below[:, -1:] & (t >= y[:, :1])
        return {
            "coverage": weighted_mean(np.mean(below, axis=1), sample_weight),
            "mae": weighted_mean(np.mean(np.abs(y - t), axis=1, dtype=np.float64), sample_weight),
        }

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        slopes = ((e > 0) - self._q * (e != 0)).astype(z.dtype)
        return slopes * e, slopes


@dataclass(frozen=True)
class Poisson(Loss):
    """Half the Poisson deviance of counts or rates, with the logarithm as link.

    l_i     = mean_j m - t + t * log(t / m);   m = exp(z)
    dlogits = (m - t) / n_outputs * w_i / total_weight

    targets: at least 0.  Above z = 60 the exponential goes on along its tangent, so that loss and
    gradient stay finite.  McCullagh and Nelder, Generalized Linear Models, 1989, chapter 6.
    """

    metric_names = ("deviance", "r2", "rmse", "mae")
    largest: ClassVar[float] = 60.0

    def predict(self, logits: Array) -> Array:
        """Return the expected count, exp(logits)."""
        return np.exp(np.minimum(logits, self.largest))

    def check_targets(self, targets: Array, n_outputs: int) -> None:
        """Raise ValueError unless all targets are at least 0."""
        super().check_targets(targets, n_outputs)
        require_targets(targets >= 0, targets, "must be at least 0")

    def metrics(
        self, logits: Array, targets: Array, sample_weight: Weights = None, extra: Names = ()
    ) -> dict[str, float]:
        """Return "deviance", twice the loss, and the metrics of regression."""
        deviance = 2 * self(logits.astype(np.float64), targets, sample_weight)[0]
        return {"deviance": deviance, **super().metrics(logits, targets, sample_weight)}

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        m = self.predict(z)
        entropy = t * np.log(np.where(t > 0, t, 1))
        return m * (1 + np.maximum(z - self.largest, 0)) - t - t * z + entropy, m - t
