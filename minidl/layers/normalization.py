"""Layers that bring features to a common scale, and the learned scale itself."""

from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.errors import require
from minidl.kernels import Array
from minidl.layers.layer import Layer


class Scale(Layer):
    """One learned factor for each feature.

    y      = x * gamma
    dx     = dy * gamma
    dgamma = (dy * x).sum(axis=0)

    x, y: (n_samples, n_features).  gamma: (n_features,), 1 at the start.  Saves x.
    """

    param_names: tuple[str, ...] = ("gamma",)

    def __init__(self, n_features: int, *, dtype: Any = np.float32) -> None:
        require("n_features", n_features, n_features >= 1, "at least 1")
        self.n_features = n_features
        self.gamma: Array = np.ones(n_features, dtype)
        self.dgamma = np.zeros_like(self.gamma)

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x * gamma."""
        if train:
            self.save(x)
        return np.multiply(x, self.gamma)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite dgamma; return dy * gamma."""
        (x,) = self.saved()
        np.einsum("ij,ij->j", dy, x, out=self.dgamma)
        return np.multiply(dy, self.gamma) if need_dx else None


class Normalization(Scale):
    """Mean 0 and variance 1 of each row, then a learned scale and shift; the base of all norms.

    x_hat  = (x - mean(x)) * r;   r = 1 / sqrt(var(x) + eps)
    y      = gamma * x_hat + beta
    dx     = r * (g - mean(g) - x_hat * mean(g * x_hat));   g = dy * gamma
    dgamma = (dy * x_hat).sum(axis=0)
    dbeta  = dy.sum(axis=0)

    mean and var run over the row; var is the mean squared deviation.  x, y: (n_samples,
    n_features).  gamma, beta: (n_features,), 1 and 0 at the start.  Saves x_hat and r.
    """

    param_names: tuple[str, ...] = ("gamma", "beta")
    centers: ClassVar[bool] = True

    def __init__(self, n_features: int, *, eps: float = 1e-5, dtype: Any = np.float32) -> None:
        super().__init__(n_features, dtype=dtype)
        require("eps", eps, 0 < eps < np.inf, "positive")
        self.eps = eps
        if "beta" in self.param_names:
            self.beta: Array = np.zeros(n_features, dtype)
            self.dbeta = np.zeros_like(self.beta)

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return gamma * x_hat + beta."""
        if self.centers:
            x = x - self._mean(x)
        return self._normalized(x, 1 / np.sqrt(self._mean(x * x) + self.eps), train)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite dgamma and dbeta; return dx."""
        x_hat, r = self.saved()
        np.einsum("ij,ij->j", dy, x_hat, out=self.dgamma)
        if "beta" in self.param_names:
            np.add.reduce(dy, 0, out=self.dbeta)
        if not need_dx:
            return None
        g = dy * self.gamma
        dx: Array = g - x_hat * self._mean(g * x_hat)
        if self.centers:
            dx -= self._mean(g)
        dx *= r
        return dx

    def _normalized(self, centered: Array, r: Array, train: bool) -> Array:
        x_hat = centered * r
        if train:
            self.save(x_hat, r)
        y: Array = x_hat * self.gamma
        if "beta" in self.param_names:
            y += self.beta
        return y

    def _mean(self, x: Array) -> Array:
        mean: Array = x.mean(axis=1, keepdims=True)
        return mean


class LayerNorm(Normalization):
    """Each row brought to mean 0 and variance 1, then scaled and shifted.

    y = gamma * (x - mean(x)) / sqrt(var(x) + eps) + beta, with mean and var over the row.

    The gradients are those of `Normalization`.  Ba, Kiros and Hinton, Layer Normalization, 2016.
    """


class RMSNorm(Normalization):
    """Each row divided by its root mean square, then scaled; nothing is centred or shifted.

    y  = gamma * x_hat;   x_hat = x * r,   r = 1 / sqrt(mean(x**2) + eps)
    dx = r * (g - x_hat * mean(g * x_hat));   g = dy * gamma

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    param_names = ("gamma",)
    centers = False


class BatchNorm(Normalization):
    """Each feature brought to mean 0 and variance 1 over the batch, then scaled and shifted.

    y = gamma * (x - mean(x)) / sqrt(var(x) + eps) + beta, with mean and var over the rows.

    Without `train`, running_mean and running_var stand in for mean and var. Each training forward
    moves them, with var(x) times n / (n - 1), the unbiased estimate:

    running = (1 - momentum) * running + momentum * (mean or var of the batch)

    momentum: in (0, 1].  As gamma is the same in all rows, dx has another form than that of
    `Normalization`, with dgamma and dbeta in it:

    dx = gamma * r * (dy - x_hat * dgamma / n - dbeta / n)

    A training batch needs two rows at least.  Ioffe and Szegedy, Batch Normalization, 2015.
    """

    buffer_names = ("running_mean", "running_var")
    mixes_rows = True

    def __init__(
        self,
        n_features: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-5,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(n_features, eps=eps, dtype=dtype)
        require("momentum", momentum, 0 < momentum <= 1, "in (0, 1]")
        self.momentum = momentum
        self.running_mean: Array = np.zeros(n_features, dtype)
        self.running_var: Array = np.ones(n_features, dtype)

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return gamma * x_hat + beta; in training, move the running statistics."""
        if not train:
            r = 1 / np.sqrt(self.running_var + self.eps)
            return self._normalized(x - self.running_mean, r, train)
        n = len(x)
        if n < 2:
            raise ValueError(f"x must have at least 2 rows for BatchNorm in training, got {n}")
        x_hat, y = (self._empty(key, x.shape, x.dtype) for key in ("x_hat", "y"))
        mean, var, r = kernels.batch_norm(x, self.gamma, self.beta, self.eps, x_hat, y)
        for running, new in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running *= 1 - self.momentum
            running += self.momentum * new
        self.save(x_hat, r)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite dgamma and dbeta; return dx."""
        x_hat, r = self.saved()
        dx = self._empty("dx", dy.shape, dy.dtype)
        kernels.batch_norm_backward(dy, x_hat, r, self.gamma, dx, self.dgamma, self.dbeta)
        return dx if need_dx else None
