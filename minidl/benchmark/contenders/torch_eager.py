"""PyTorch, eager, without a DataLoader; of its kinds of SGD the fused one is the fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from minidl.benchmark.cells import LEARNING_RATE, MOMENTUM, Cell
from minidl.benchmark.serving import serve
from minidl.kernels import Array


class PyTorch:
    """The usual loop over batches of a permutation."""

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Build the module and the optimizer."""
        torch.manual_seed(0)
        X, y = cell.samples()
        self._X, self._y = torch.from_numpy(X), torch.from_numpy(y)
        self._batch_size = cell.batch_size
        layers: list[Any] = []
        for n_in, n_out in zip(cell.sizes, cell.sizes[1:], strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self._model = nn.Sequential(*layers[:-1])
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True
        )
        return {"threads": torch.get_num_threads()}

    def run(self, n_batches: int) -> None:
        """Train so many batches; the losses are not read."""
        model, optimizer = self._model, self._optimizer
        order = torch.randperm(len(self._X))
        for rows in order.split(self._batch_size)[:n_batches]:
            x, y = self._X.index_select(0, rows), self._y.index_select(0, rows)
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return a call of the module, without the recording of gradients."""
        tensor = torch.from_numpy(x)

        def predict() -> object:
            with torch.inference_mode():
                return self._model(tensor)

        return predict


if __name__ == "__main__":
    serve(PyTorch())
