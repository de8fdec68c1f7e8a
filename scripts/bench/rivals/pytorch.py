"""PyTorch without a DataLoader: eager, or with the argument `compile` through torch.compile.

Of its kinds of SGD the fused one is the fastest.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.cells import Problem
from bench.child import main
from minidl.kernels import Array


class PyTorch:
    """The usual loop over batches of a permutation."""

    race_epochs = 3

    def __init__(self, compiled: bool) -> None:
        self._compiled = compiled

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Build the module and the optimizer."""
        torch.manual_seed(0)
        self._problem, self._step = problem, 0
        self._X, self._y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
        layers: list[Any] = []
        for W in problem.weights:
            linear = nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W.T))
                linear.bias.zero_()
            layers += [linear, nn.ReLU()]
        self._model = nn.Sequential(*layers[:-1])
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=problem.learning_rate,
            momentum=problem.momentum,
            nesterov=problem.nesterov,
            fused=True,
        )
        self._loss = torch.compile(self._mean_loss) if self._compiled else self._mean_loss
        library = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS"
        kernel = f"{library} in PyTorch, which does not tell its kernel; other passes: "
        kernel += torch.backends.cpu.get_cpu_capability()
        return {"threads": torch.get_num_threads(), "blas": kernel}

    def _mean_loss(self, x: Any, y: Any) -> Any:
        return cross_entropy(self._model(x), y)

    def run(self, n_batches: int) -> None:
        """Train so many batches; the losses are not read."""
        optimizer, mean_loss = self._optimizer, self._loss
        rates = self._problem.rates(self._step, n_batches)
        batches = torch.randperm(len(self._X)).split(self._problem.batch_size)
        for rows, rate in zip(batches, rates, strict=False):
            optimizer.param_groups[0]["lr"] = rate
            x, y = self._X.index_select(0, rows), self._y.index_select(0, rows)
            optimizer.zero_grad(set_to_none=True)
            mean_loss(x, y).backward()
            optimizer.step()
        self._step += n_batches

    def outputs(self, x: Array) -> Any:
        """Return the logits, without the recording of gradients."""
        with torch.inference_mode():
            return self._model(torch.from_numpy(x))


if __name__ == "__main__":
    main(PyTorch(compiled="compile" in sys.argv[1:]))
