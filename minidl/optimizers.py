"""Optimizers: one step on two flat arrays, the parameters and their gradients.

An optimizer owns its running averages and nothing else. In NumPy it walks the vector in blocks that
stay in the cache, so that its few passes read memory once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.errors import ParameterError, require
from minidl.groups import Block, ParameterGroup, cut_into_blocks
from minidl.kernels import BLOCK, Array


@dataclass
class Optimizer:
    """The base of all optimizers: groups, blocks, clipping, max-norm; subclasses write the rule.

    Per step, for each group:
    1. with `clip_grad_norm` c:  g *= min(1, c / norm of the whole gradient);
    2. with `clip_grad_value` v:  g = min(max(g, -v), v);
    3. the optimizer's rule, with learning rate times the group's multiplier, and weight decay only
       in groups that decay (weights, not biases or scales);
    4. with a group's `max_norm` m:  each column of its matrices, the incoming weights of one unit,
       is scaled down to norm m where it is longer (Srivastava et al., Dropout, 2014).

    groups: `model.parameter_groups(...)`, where the groups of the model are not to be treated as
    `model.groups` says.
    Settings out of range raise ValueError.

    PyTorch's weight_decay covers biases and scales as well. scikit-learn's alpha does not, but its
    strength depends on the size of the batch: d = g + alpha / n_samples * p. PyTorch's
    clip_grad_norm_ scales by min(1, c / (norm + 1e-6)).
    """

    learning_rate: float = 0.1
    weight_decay: float = field(default=0.0, kw_only=True)
    clip_grad_norm: float | None = field(default=None, kw_only=True)
    clip_grad_value: float | None = field(default=None, kw_only=True)
    groups: Sequence[ParameterGroup] | None = field(default=None, kw_only=True, repr=False)

    average_names: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[bool] = False  # whether the rule is one of `kernels`

    def __post_init__(self) -> None:
        require("learning_rate", self.learning_rate, 0 < self.learning_rate < np.inf, "positive")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < np.inf, "at least 0")
        for name in ("clip_grad_norm", "clip_grad_value"):
            bound = getattr(self, name)
            require(name, bound, bound is None or 0 < bound < np.inf, "positive")
        self.n_steps = 0
        self.averages: dict[str, Array] = {}
        self._bound: tuple[Array, Array] | None = None
        self._blocks: list[Block] = []
        self._bounded: list[tuple[Array, float]] = []
        self._clipped = np.empty(0)

    def step(
        self, params: Any, grads: Array | None = None, learning_rate: float | None = None
    ) -> bool:
        """Change a model's parameters by one step against its gradients.

            optimizer.step(model)
            optimizer.step(params, grads)  # 1-D arrays of equal shape, the same ones in each call

        Of arrays nobody knows which are weights: a `weight_decay` then needs `groups`.
        Gradients are left as they were.  Returns whether all parameters are finite after it.
        """
        model = None
        if grads is None:
            model, params, grads = params, params.params, params.grads
        if self._bound is None or self._bound[0] is not params or self._bound[1] is not grads:
            groups = model.groups if model is not None and self.groups is None else self.groups
            self._bind(params, grads, groups)
        self.n_steps += 1
        scale = 1.0
        if self.clip_grad_norm is not None:
            with np.errstate(over="ignore"):
                norm = float(np.sqrt(np.dot(grads, grads)))
            if norm == math.inf:  # the squares of float32 overflow from 1e19 on
                norm = float(np.linalg.norm(grads.astype(np.float64)))
            scale = min(1.0, self.clip_grad_norm / norm) if norm > 0 else 1.0
        if self.clip_grad_value is not None:
            np.multiply(grads, scale, out=self._clipped)
            np.clip(self._clipped, -self.clip_grad_value, self.clip_grad_value, out=self._clipped)
            scale = 1.0
        rate = self.learning_rate if learning_rate is None else learning_rate
        finite = True
        for block in self._blocks:
            finite = self._rule(block, scale, rate * block.learning_rate_multiplier) and finite
        for W, max_norm in self._bounded:
            norms = np.sqrt(np.einsum("ij,ij->j", W, W))
            np.maximum(norms, max_norm, out=norms)
            W *= max_norm / norms
        return finite

    def state(self) -> dict[str, Any]:
        """Return what a later `restore` needs to go on with the same bits."""
        return {"n_steps": self.n_steps, **self.averages}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` returned."""
        self.n_steps = int(state["n_steps"])
        names = [name for name in self.average_names if name in state]  # none before a first step
        self.averages = {name: np.array(state[name]) for name in names}
        self._bound = None

    def __getstate__(self) -> dict[str, Any]:
        # Without views, which the next step makes anew.
        return {**self.__dict__, "_bound": None, "_blocks": [], "_bounded": [], "_clipped": None}

    def _rule(self, block: Block, scale: float, learning_rate: float) -> bool:
        """Change a block's parameters and averages in place by the gradient scale * block.grads.

        Returns whether the parameters are finite after.
        """
        raise NotImplementedError

    def _bind(self, params: Array, grads: Array, groups: Sequence[ParameterGroup] | None) -> None:
        """Cut the vector into blocks and keep their views, so that a step makes none."""
        if params.shape != grads.shape or params.ndim != 1:
            raise ValueError(
                f"params and grads must be 1-D and of equal shape, got {params.shape} "
                f"and {grads.shape}"
            )
        for name in self.average_names:
            zeros = kernels.zeros(params.shape, params.dtype)
            shape = self.averages.setdefault(name, zeros).shape
            expected = f"of the shape of the {name} so far, {shape}"
            require("params", params.shape, shape == params.shape, expected)
        if groups is None and self.weight_decay:
            problem = "must say which parameters decay: call step(model), or give model.groups"
            raise ParameterError("groups", problem)
        groups = groups or (ParameterGroup("all", slice(0, params.size)),)
        size = BLOCK
        if self.kernel and kernels.name() == "compiled":
            size = max(1, params.size)  # one pass, on several threads: nothing to gain from blocks
        averages = [self.averages[name] for name in self.average_names]
        used = grads
        if self.clip_grad_value is not None:
            used = self._clipped = np.empty_like(grads)
        self._blocks = cut_into_blocks(groups, size, self.weight_decay, params, used, averages)
        self._bounded = [
            (W, group.max_norm)
            for group in groups
            if group.max_norm is not None
            for W in group.matrices(params)
        ]
        self._bound = (params, grads)


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    d = g + weight_decay * p
    v = momentum * v + d
    p = p - learning_rate * v                       (nesterov: learning_rate * (d + momentum * v))

    The gradient is a mean over the batch, so the strength of the decay does not depend on its size.
    As in PyTorch. In scikit-learn the velocity contains the learning rate,
    v = momentum * v - learning_rate * g and p = p + v, which differs where the rate changes.
    Polyak 1964; Nesterov 1983 in the form of Sutskever et al. 2013.
    """

    average_names = ("velocity",)
    kernel = True

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        if self.nesterov and self.momentum == 0:
            raise ParameterError("nesterov", "needs a momentum above 0")

    def _rule(self, block: Block, scale: float, learning_rate: float) -> bool:
        p, g, (v,), decay = block.params, block.grads, block.averages, block.weight_decay
        finite = kernels.sgd(p, g, v, learning_rate, self.momentum, decay, scale, self.nesterov)
        if finite is not None:
            return finite
        d = _decayed(p, g, decay, scale)
        v *= self.momentum
        v += d
        p -= learning_rate * (self.momentum * v + d if self.nesterov else v)
        return _all_finite(p)


@dataclass
class Adam(Optimizer):
    """Adam: steps scaled by running averages of the gradient and its square.

    d = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d**2
    p = p - learning_rate * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    t counts steps from 1. Kingma and Ba, Adam, 2015 (the last line as at the end of section 2).
    eps is added before the bias correction, as in scikit-learn. PyTorch adds it after:
    p = p - learning_rate / (1 - beta1**t) * m / (sqrt(v / (1 - beta2**t)) + eps), which is the line
    above with eps * sqrt(1 - beta2**t) for eps.
    """

    average_names = ("mean", "square")
    kernel = True
    decoupled: ClassVar[bool] = False  # whether the decay shrinks the parameters themselves

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require("beta1", self.beta1, 0 <= self.beta1 < 1, "in [0, 1)")
        require("beta2", self.beta2, 0 <= self.beta2 < 1, "in [0, 1)")
        require("eps", self.eps, 0 < self.eps < np.inf, "positive")

    def _rule(self, block: Block, scale: float, learning_rate: float) -> bool:
        beta1, beta2, eps, decay = self.beta1, self.beta2, self.eps, block.weight_decay
        shrink = 1.0
        if self.decoupled:
            shrink, decay = 1 - learning_rate * decay, 0.0
        rate = learning_rate * (math.sqrt(1 - beta2**self.n_steps) / (1 - beta1**self.n_steps))
        p, g, (m, v) = block.params, block.grads, block.averages
        settings = rate, beta1, beta2, eps, decay, scale, shrink, 1 - beta1, 1 - beta2
        finite = kernels.adam(p, g, m, v, *settings)
        if finite is not None:
            return finite
        if shrink != 1.0:
            p *= shrink
        d = _decayed(p, g, decay, scale)
        m *= beta1
        m += (1 - beta1) * d
        v *= beta2
        v += (1 - beta2) * (d * d)
        p -= rate * (m / (np.sqrt(v) + eps))
        return _all_finite(p)


@dataclass
class AdamW(Adam):
    """Adam with the decay taken out of the gradient and applied to the parameters.

    p = p - learning_rate * weight_decay * p
    then Adam's step with d = g.

    The default weight_decay of 0.01 and the factor learning_rate are PyTorch's.
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    decoupled = True

    weight_decay: float = field(default=0.01, kw_only=True)


@dataclass
class RMSprop(Optimizer):
    """Steps scaled by a running average of the squared gradient.

    d = g + weight_decay * p
    v = decay * v + (1 - decay) * d**2
    p = p - learning_rate * d / (sqrt(v) + eps)

    As in PyTorch, whose name for `decay` is alpha.
    Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012.
    """

    average_names = ("square",)

    learning_rate: float = 0.01
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require("decay", self.decay, 0 <= self.decay < 1, "in [0, 1)")
        require("eps", self.eps, 0 < self.eps < np.inf, "positive")

    def _rule(self, block: Block, scale: float, learning_rate: float) -> bool:
        p, g, (v,) = block.params, block.grads, block.averages
        d = _decayed(p, g, block.weight_decay, scale)
        v *= self.decay
        v += (1 - self.decay) * (d * d)
        p -= learning_rate * (d / (np.sqrt(v) + self.eps))
        return _all_finite(p)


def _decayed(p: Array, g: Array, weight_decay: float, scale: float) -> Array:
    d = g if scale == 1.0 else scale * g
    return weight_decay * p + d if weight_decay else d


def _all_finite(p: Array) -> bool:
    """Return whether every number of p, 1-D, is finite; one whose square overflows is not."""
    return math.isfinite(p.dot(p))


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}
