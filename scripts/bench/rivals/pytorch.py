"""PyTorch without a DataLoader: eager, or with the argument `compile` through torch.compile.

Of its kinds of SGD the fused one is the fastest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.cells import Problem
from bench.child import main


def prepare(problem: Problem, way: str = "") -> Any:
    """Build the module and the optimizer."""
    torch.manual_seed(0)
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
    layers: list[Any] = []
    for W in problem.weights:
        linear = nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T))
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=problem.learning_rate,
        momentum=problem.momentum,
        nesterov=problem.nesterov,
        weight_decay=problem.weight_decay,
        fused=True,
    )

    def mean_loss(x: Any, y: Any) -> Any:
        return cross_entropy(model(x), y, label_smoothing=problem.label_smoothing)

    loss = torch.compile(mean_loss) if way == "compile" else mean_loss

    def run(rates: list[float]) -> None:  # the usual loop; the losses are not read
        batches = torch.randperm(len(X)).split(problem.batch_size)
        for rows, rate in zip(batches, rates, strict=False):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss(X.index_select(0, rows), y.index_select(0, rows)).backward()
            optimizer.step()

    library = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS"
    kernel = f"{library} in PyTorch, which does not tell its kernel; other passes: "
    kernel += torch.backends.cpu.get_cpu_capability()
    outputs = torch.inference_mode()(lambda x: model(torch.from_numpy(x)))
    return run, outputs, {"threads": torch.get_num_threads(), "blas": kernel}


if __name__ == "__main__":
    main(prepare)
