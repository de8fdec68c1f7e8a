"""`Sequential`: owns the two flat vectors, lends views, runs layers forwards and backwards."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.errors import ParameterError, require_instance
from minidl.groups import ParameterGroup
from minidl.kernels import Array
from minidl.layers.activations import ReLU
from minidl.layers.layer import Layer, Scratch
from minidl.layers.linear import Linear

GROUP_NAMES = ("weights", "biases", "scales")  # the order of the flat vector; only weights decay


class Sequential:
    """A stack of layers over one vector of parameters and one of gradients.

    params, grads: 1-D and contiguous. Each layer's `W, b, dW, db, ...` are views into them, so one
    array operation updates, clips, saves or compares the whole model. What decays comes first:
    all weights, then biases, then scales, each in the order of the layers.
    buffers: 1-D, the running statistics of the layers that keep some; no gradient touches them.

        logits = model.forward(x)
        loss, dlogits = loss_function(logits, labels)
        model.backward(dlogits)
        optimizer.step(model)

    Raises ValueError where a layer is used twice or belongs to another model that is still there,
    sizes do not fit, or dtypes differ.
    """

    layers: tuple[Layer, ...]
    params: Array
    grads: Array
    buffers: Array

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._bind(layers)

    @classmethod
    def over(cls, layers: Sequence[Layer], params: Array, buffers: Array) -> Sequential:
        """Return a model whose vectors are these arrays, not copies; the layers take their values.

        Raises ValueError where they do not have the sizes and the dtype of the layers.
        """
        model = object.__new__(cls)
        model._bind(layers, params, buffers)
        return model

    def __repr__(self) -> str:
        return self.summary()

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return the outputs, (n_samples, n_out), for x, (n_samples, n_in)."""
        if getattr(x, "ndim", None) != 2:
            got = f"shape {x.shape}" if hasattr(x, "shape") else type(x).__name__
            raise ParameterError("x", f"must be an array (n_samples, n_in), got {got}")
        if x.dtype != self._dtype:
            x = x.astype(self._dtype)
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def backward(self, dy: Array, need_dx: bool = False) -> Array | None:
        """Overwrite `grads`, given the gradient of the outputs; return dx only where asked."""
        dx: Array | None = dy
        for layer in reversed(self.layers[1:]):
            assert dx is not None
            dx = layer.backward(dx)
        assert dx is not None
        return self.layers[0].backward(dx, need_dx)

    def add_l2(self, strength: float) -> float:
        """Add the gradient of an L2 penalty to `grads`; return the penalty.

        penalty = strength / 2 * (sum of the squares of all weights, without biases and scales)
        """
        weights = self._group_slices["weights"]
        squares = kernels.add_l2(self.grads[weights], self.params[weights], strength)
        return 0.5 * strength * squares

    def begin_step(self, step: int, first_row: int = 0) -> None:
        """Position all noise: the next training forward is of this step, from this row on."""
        for layer in self.layers:
            layer.begin_step(step, first_row)

    def enter_loop(self, scratch: Sequence[Scratch] | None = None) -> list[Scratch]:
        """Make steps faster, for a loop that is done with one step's arrays before the next begins.

        The layers write each step's results over those of the step before, and linear layers do
        the work of a ReLU next to them. Outputs and gradients stay the same; what single layers
        give in between does not. Returns the memory that the layers use, which can be given again.
        """
        scratch = [{} for _ in self._inside] if scratch is None else list(scratch)
        for layer, own in zip(self._inside, scratch, strict=True):
            layer._scratch = own
        _fuse(self.layers, True)
        return scratch

    def leave_loop(self) -> None:
        """End `enter_loop`: each result is an array of its own again."""
        for layer in self._inside:
            layer._scratch = None
        _fuse(self.layers, False)

    def place_gradients(self, memory: Array) -> None:
        """Keep the gradients in this memory, an array like `grads`, from now on."""
        self._bind(self.layers, self.params, self.buffers, memory)

    def replica(self) -> Sequential:
        """Return a model on the same `params`, with gradients, buffers and activations of its own.

        A step of `params` is a step of them all.
        """
        twin = object.__new__(Sequential)
        twin._bind([_fresh_copy(layer) for layer in self.layers], self.params)
        return twin

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Yield ("0.W", view), ("0.b", view), ("2.W", view), ... in the order of the layers.

        A layer within a layer is named by the path to it: "3.0.W".
        """
        for path, layer in walk_paths(self.layers):
            for name in layer.param_names:
                yield f"{path}.{name}", getattr(layer, name)

    def parameter_groups(
        self,
        learning_rate_multipliers: Mapping[str, float] | None = None,
        max_norm: float | None = None,
    ) -> tuple[ParameterGroup, ...]:
        """Return the groups of the vector with settings for an optimizer.

        learning_rate_multipliers: by group name, "weights", "biases", "scales"; default 1 each.
        max_norm: bound on the norm of the incoming weights of each unit.
        """
        multipliers = dict.fromkeys(GROUP_NAMES, 1.0) | dict(learning_rate_multipliers or {})
        if unknown := set(multipliers) - set(GROUP_NAMES):
            raise ValueError(
                f"learning_rate_multipliers names {sorted(unknown)}; groups are {GROUP_NAMES}"
            )
        shapes = tuple(p.shape for _, p in self.named_parameters() if _group_of("", p) == "weights")
        weights, biases, scales = self._group_slices.values()
        return (
            ParameterGroup("weights", weights, True, multipliers["weights"], max_norm, shapes),
            ParameterGroup("biases", biases, False, multipliers["biases"]),
            ParameterGroup("scales", scales, False, multipliers["scales"]),
        )

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The groups of the vector, without multipliers or max-norm."""
        return self.parameter_groups()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, inputs and outputs."""
        return self._dtype

    @property
    def input_size(self) -> int | None:
        """The number of input features; None where the layers take any."""
        return next((n for layer in self.layers if (n := layer.input_size()) is not None), None)

    def output_size(self, n_in: int) -> int:
        """Return the number of outputs for `n_in` input features."""
        for i, layer in enumerate(self.layers):
            try:
                n_in = layer.output_size(n_in)
            except ValueError as error:
                raise ValueError(f"layer {i} ({type(layer).__name__}): {error}") from None
        return n_in

    def summary(self) -> str:
        """Return a table of the layers: output shape, parameters, multiply-adds a sample."""
        rows = [("layer", "output", "parameters", "multiply-adds")]
        size, total = self.input_size, 0
        for path, layer in enumerate(self.layers):
            inside = list(walk([layer]))
            n_params = sum(getattr(one, n).size for one in inside for n in one.param_names)
            cost = 0 if size is None else layer.multiply_adds(size)
            size = None if size is None else layer.output_size(size)
            total += cost
            shape = "(n, any)" if size is None else f"(n, {size})"
            rows.append((f"{path} {type(layer).__name__}", shape, f"{n_params:,}", f"{cost:,}"))
        rows.append(("total", "", f"{self.params.size:,}", f"{total:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip()
            for a, b, c, d in rows
        )

    def __copy__(self) -> Sequential:
        # A second model on the same layers would take them away from this one.
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies of views are arrays of their own: without this the model would go on training
        # a vector that its layers no longer see.
        self._bind(state["layers"])

    def _bind(
        self,
        layers: Sequence[Layer],
        params: Array | None = None,
        buffers: Array | None = None,
        grads: Array | None = None,
    ) -> None:
        """Adopt the layers: move their arrays into the flat vectors and lend them views.

        With `params` or `buffers` the layers become views of those, and their values stay.
        """
        for i, layer in enumerate(layers):
            require_instance(f"layer {i}", layer, Layer)
        self.layers = tuple(layers)
        if not self.layers:
            raise ParameterError("layers", "must not be empty")
        self._inside = inside = list(walk(self.layers))  # all layers, those within others as well
        if len({id(layer) for layer in inside}) < len(inside):
            raise ValueError("layers must be different objects: one is used twice")
        for path, layer in walk_paths(self.layers):
            owner = None if layer._owner is None else layer._owner()
            if owner not in (None, self):
                raise ValueError(
                    f"layer {path} ({type(layer).__name__}) belongs to another model, which would "
                    "train no more: give a copy.deepcopy of it"
                )
        if (size := self.input_size) is not None:
            self.output_size(size)
        tensors: dict[str, list[tuple[Layer, str]]] = {group: [] for group in GROUP_NAMES}
        for layer in inside:
            for name in layer.param_names:
                tensors[_group_of(name, getattr(layer, name))].append((layer, name))
        stats = [(layer, name) for layer in inside for name in layer.buffer_names]
        self._dtype = self._common_dtype([pair for group in tensors.values() for pair in group])

        self._group_slices = {}
        start = 0
        for group, pairs in tensors.items():
            stop = start + sum(getattr(layer, name).size for layer, name in pairs)
            self._group_slices[group] = slice(start, stop)
            start = stop
        pairs = [pair for group in tensors.values() for pair in group]
        n_stats = sum(getattr(layer, name).size for layer, name in stats)
        for vector, size in ((params, start), (buffers, n_stats)):
            if vector is not None and (vector.shape, vector.dtype) != ((size,), self._dtype):
                raise ValueError(
                    f"{vector.size} {vector.dtype} numbers for a model of {size} {self._dtype}"
                )
        self.params = kernels.zeros((start,), self._dtype) if params is None else params
        self.grads = kernels.zeros((start,), self._dtype) if grads is None else grads
        self.buffers = np.empty(n_stats, self._dtype) if buffers is None else buffers
        _lend_views(self.params, pairs, "", copy_values=params is None)
        _lend_views(self.grads, pairs, "d", copy_values=params is None)
        _lend_views(self.buffers, stats, "", copy_values=buffers is None)
        for layer in inside:
            if layer.param_names or layer.buffer_names:
                layer._owner = weakref.ref(self)

    @staticmethod
    def _common_dtype(pairs: Sequence[tuple[Layer, str]]) -> np.dtype[Any]:
        dtypes = {getattr(layer, name).dtype for layer, name in pairs}
        if len(dtypes) > 1:
            raise ValueError(f"layers must have one dtype, got {sorted(map(str, dtypes))}")
        return dtypes.pop() if dtypes else np.dtype(np.float32)


def walk(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield the layers and the layers within them, depth first."""
    for _, layer in walk_paths(layers):
        yield layer


def walk_paths(layers: Sequence[Layer], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield ("0", layer), ("1", layer), ("1.0", layer within it), ..."""
    for i, layer in enumerate(layers):
        yield f"{prefix}{i}", layer
        yield from walk_paths(layer.layers, f"{prefix}{i}.")


def _fuse(layers: Sequence[Layer], on: bool) -> None:
    for before, after in itertools.pairwise(layers):
        if type(before) is Linear and type(after) is ReLU:
            before.rectifies = after.is_rectified = on
        elif type(before) is ReLU and type(after) is Linear:
            before.is_masked = after.masks = on
    for layer in layers:
        _fuse(layer.layers, on)


def _group_of(name: str, array: Array) -> str:
    if array.ndim >= 2:
        return "weights"
    return "biases" if name in ("b", "beta") else "scales"


def _lend_views(
    vector: Array, pairs: Sequence[tuple[Layer, str]], prefix: str, *, copy_values: bool
) -> None:
    start = 0
    for layer, name in pairs:
        own = getattr(layer, prefix + name)
        view = vector[start : start + own.size].reshape(own.shape)
        if copy_values:
            view[:] = own
        setattr(layer, prefix + name, view)
        start += own.size


def _fresh_copy(layer: Layer) -> Layer:
    twin = copy.copy(layer)
    twin.layers = tuple(_fresh_copy(inner) for inner in layer.layers)
    return twin
