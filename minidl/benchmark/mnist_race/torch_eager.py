"""PyTorch, eager."""

import json
import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

EPOCHS, BATCH_SIZE = 3, 128


def main(file: str, accuracy: float) -> None:
    """Train until the accuracy is reached."""
    with np.load(file) as mnist:
        X, y, X_test, y_test = (
            torch.from_numpy(mnist[k]) for k in ("x_train", "y_train", "x_test", "y_test")
        )
    X, y, y_test = X.reshape(-1, 784).float(), y.long(), y_test.long()
    mean, deviation = X.mean(), X.std()
    X.sub_(mean).div_(deviation)
    X_test = X_test.reshape(-1, 784).float().sub_(mean).div_(deviation)

    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    with torch.no_grad():
        for layer, gain in ((model[0], 1.0), (model[2], 0.1)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.weight.mul_(gain)
            layer.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    steps = EPOCHS * -(-len(X) // BATCH_SIZE)

    def factor(step: int) -> float:
        t = (step + 0.5) / steps
        return t / 0.2 if t < 0.2 else (1 - t) / 0.8

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(model(X.index_select(0, rows)), y.index_select(0, rows))
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            reached = (model(X_test).argmax(1) == y_test).float().mean().item()
        print(json.dumps({"epochs": epoch, "accuracy": reached}))
        if reached >= accuracy:
            break


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
