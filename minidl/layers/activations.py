"""Elementwise activation functions, each with its derivative.

All are stable far from 0: no overflow, no loss of the tails. `ACTIVATIONS` gives the name of each
in a YAML file.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np

from minidl import kernels
from minidl.errors import require
from minidl.kernels import Array
from minidl.layers.erfc import erfc
from minidl.layers.layer import Layer


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), to full precision in both tails."""
    y = np.empty_like(x)
    if not kernels.elementwise("sigmoid", x, y):
        np.negative(x, out=y)
        with np.errstate(over="ignore"):  # far below 0 the exponential is infinite and y is 0
            np.exp(y, out=y)
        y += 1
        np.divide(1, y, out=y)
    return y


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)) in a tenth of the time of np.logaddexp(x, 0)."""
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


class Activation(Layer):
    """One function of a number, applied to every entry; the base of all activations.

    y  = f(x)
    dx = dy * f'(x)

    x, y, dy, dx: (n_samples, n_features).  Subclasses write f and f' next to each other, and say
    what the one leaves for the other: often f' is a simple function of y.
    """

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return f(x)."""
        y, *saved = self._function(x)
        if train:
            self.save(*saved)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy * f'(x)."""
        saved = self.saved()
        return dy * self._slope(*saved) if need_dx else None

    def _function(self, x: Array) -> tuple[Array, ...]:
        """Return y, and after it the arrays that `_slope` is to be given."""
        raise NotImplementedError

    def _slope(self, *args: Any, **kwargs: Any) -> Array:
        """Return f'(x), given what `_function` left."""
        raise NotImplementedError


class Identity(Activation):
    """y = x.  For where a choice must be made and none is wanted."""

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x itself."""
        if train:
            self.save()
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy itself."""
        self.saved()
        return dy if need_dx else None


class SinglePass(Activation):
    """An activation that is also in C, a single pass over memory each way.

    kernel: its name there; backward is called so, too.  saves_x: whether f' takes x; else y.
    """

    kernel: ClassVar[str]
    saves_x: ClassVar[bool] = False

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return f(x)."""
        y = self._empty("y", x.shape, x.dtype) if train else np.empty_like(x)
        if not kernels.elementwise(self.kernel, x, y):
            return super().forward(x, train)
        if train:
            self.save(x if self.saves_x else y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy * f'(x)."""
        (saved,) = self.saved()
        if not need_dx:
            return None
        dx = self._empty("dx", dy.shape, dy.dtype)
        if not kernels.elementwise(f"{self.kernel}_backward", dy, saved, dx):
            np.multiply(dy, self._slope(saved), out=dx)
        return dx


class ReLU(SinglePass):
    """Rectified linear unit.

    y  = max(x, 0)
    dx = dy where y > 0, else 0

    Saves y.
    Nair and Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010.
    """

    kernel = "relu"
    # Whether a linear layer beside this one does its work: see Sequential.enter_loop.
    is_rectified = is_masked = False

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return max(x, 0)."""
        if not self.is_rectified:
            return super().forward(x, train)
        if train:
            self.save(x)
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Return dy where y > 0, else 0."""
        if not self.is_masked:
            return super().backward(dy, need_dx)
        self.saved()
        return dy if need_dx else None

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = np.maximum(x, 0)
        return y, y

    def _slope(self, y: Array) -> Array:
        return y > 0


class LeakyReLU(Activation):
    """Rectified linear unit that lets some of the negative side through.

    y  = x where x > 0, else negative_slope * x
    dx = dy where y > 0, else negative_slope * dy

    negative_slope: in [0, 1).  Saves y.
    Maas, Hannun and Ng, Rectifier Nonlinearities Improve Neural Network Acoustic Models, 2013.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        require("negative_slope", negative_slope, 0 <= negative_slope < 1, "in [0, 1)")
        self.negative_slope = negative_slope

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = np.maximum(x, self.negative_slope * x)
        return y, y

    def _slope(self, y: Array) -> Array:
        return np.asarray(np.where(y > 0, y.dtype.type(1), y.dtype.type(self.negative_slope)))


class Tanh(SinglePass):
    """Hyperbolic tangent.

    y  = tanh(x)
    dx = dy * (1 - y**2)

    Saves y.  LeCun et al., Efficient BackProp, 1998, section 4.4.
    """

    kernel = "tanh"

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = np.tanh(x)
        return y, y

    def _slope(self, y: Array) -> Array:
        return 1 - y * y


class Sigmoid(SinglePass):
    """The logistic function.

    y  = 1 / (1 + exp(-x))
    dx = dy * y * (1 - y)

    Saves y.
    """

    kernel = "sigmoid"

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = sigmoid(x)
        return y, y

    def _slope(self, y: Array) -> Array:
        return np.asarray(y * (1 - y))


class ELU(Activation):
    """Exponential linear unit: smooth, and bounded below by -alpha.

    y  = x where x > 0, else alpha * (exp(x) - 1)
    dx = dy where y > 0, else dy * (y + alpha)

    alpha: positive.  Saves y.
    Clevert, Unterthiner and Hochreiter, Fast and Accurate Deep Network Learning, 2016.
    """

    scale = 1.0

    def __init__(self, alpha: float = 1.0) -> None:
        require("alpha", alpha, 0 < alpha < math.inf, "positive")
        self.alpha = alpha

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = self.scale * (self.alpha * np.expm1(np.minimum(x, 0)) + np.maximum(x, 0))
        return y, y

    def _slope(self, y: Array) -> Array:
        return np.where(y > 0, y.dtype.type(self.scale), y + self.scale * self.alpha)


class SELU(ELU):
    """ELU with alpha and a scale that keep mean 0 and variance 1 from layer to layer.

    y  = scale * (x where x > 0, else alpha * (exp(x) - 1))
    dx = dy * (scale where y > 0, else y + scale * alpha)

    alpha = 1.6733, scale = 1.0507, for inputs with mean 0, variance 1 and weights drawn by
    lecun_normal.  Saves y.
    Klambauer et al., Self-Normalizing Neural Networks, 2017.
    """

    scale = 1.0507009873554804934193349852946

    def __init__(self) -> None:
        super().__init__(alpha=1.6732632423543772848170429916717)


class GELU(Activation):
    """Gaussian error linear unit: x times the probability that a normal variate is below x.

    y  = x * Phi(x);   Phi(x) = erfc(-x / sqrt(2)) / 2
    dx = dy * (Phi(x) + x * phi(x));   phi(x) = exp(-x**2 / 2) / sqrt(2 * pi)

    approximate="tanh" takes instead
    Phi(x) = (1 + tanh(u)) / 2;   u = sqrt(2 / pi) * (x + 0.044715 * x**3)
    phi(x) = (1 - tanh(u)**2) / 2 * du/dx;   du/dx = sqrt(2 / pi) * (1 + 0.134145 * x**2)

    Saves x and Phi(x).  Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        require("approximate", approximate, approximate in ("none", "tanh"), "'none' or 'tanh'")
        self.approximate = approximate

    def _function(self, x: Array) -> tuple[Array, ...]:
        if self.approximate == "none":
            cdf = 0.5 * erfc(x * -math.sqrt(0.5))
        else:  # (1 + tanh(u)) / 2 is the logistic function of 2 * u
            cdf = sigmoid(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x))
        return x * cdf, x, cdf

    def _slope(self, x: Array, cdf: Array) -> Array:
        if self.approximate == "none":
            pdf = np.exp(-0.5 * x * x) * math.sqrt(0.5 / math.pi)
        else:  # with tanh(u) = 2 * Phi - 1, (1 - tanh(u)**2) / 2 is 2 * Phi * (1 - Phi)
            slope_of_u = math.sqrt(2 / math.pi) * (1 + 0.134145 * x * x)
            pdf = 2 * cdf * (1 - cdf) * slope_of_u
        return cdf + x * pdf


class SiLU(SinglePass):
    """Sigmoid linear unit, also called swish.

    y  = x * s;   s = 1 / (1 + exp(-x))
    dx = dy * (s + y * (1 - s))

    Saves x.  Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units, 2018.
    """

    kernel, saves_x = "silu", True

    def _function(self, x: Array) -> tuple[Array, ...]:
        return x * sigmoid(x), x

    def _slope(self, x: Array) -> Array:
        s = sigmoid(x)
        return np.asarray(s + x * s * (1 - s))


class Mish(Activation):
    """A smooth, slightly non-monotonic relative of SiLU.

    y  = x * t;   t = tanh(log(1 + exp(x)))
    dx = dy * (t + x * (1 - t**2) * sigmoid(x))

    Saves x and t.  Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2020.
    """

    def _function(self, x: Array) -> tuple[Array, ...]:
        t = np.tanh(softplus(x))
        return x * t, x, t

    def _slope(self, x: Array, t: Array) -> Array:
        return np.asarray(t + x * (1 - t * t) * sigmoid(x))


class Softplus(Activation):
    """A smooth form of ReLU.

    y  = log(1 + exp(x))
    dx = dy * sigmoid(x) = dy * (1 - exp(-y))

    Saves y.  Dugas et al., Incorporating Second-Order Functional Knowledge, 2001.
    """

    def _function(self, x: Array) -> tuple[Array, ...]:
        y = softplus(x)
        return y, y

    def _slope(self, y: Array) -> Array:
        return np.negative(np.expm1(-y))


ACTIVATIONS: dict[str, type[Activation]] = {
    "identity": Identity,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "elu": ELU,
    "selu": SELU,
    "gelu": GELU,
    "silu": SiLU,
    "mish": Mish,
    "softplus": Softplus,
}
