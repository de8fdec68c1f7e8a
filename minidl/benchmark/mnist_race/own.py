"""minidl."""

import json
import sys

import numpy as np

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy, fit
from minidl.data.mnist import find_mnist
from minidl.data.preprocessing import MeanStd
from minidl.parallel import automatic_threads
from minidl.schedules import OneCycle


def main(file: str, accuracy: float) -> None:
    """Train until the accuracy is reached."""
    mnist = find_mnist(file)
    scaling = MeanStd().fit(mnist["x_train"])
    rng = np.random.default_rng(0)
    model = Sequential([Linear(784, 256, rng=rng), ReLU(), Linear(256, 10, rng=rng, gain=0.1)])
    shards, threads = automatic_threads(model, 128)
    for epoch in fit(
        model,
        SoftmaxCrossEntropy(),
        SGD(0.1, momentum=0.9, nesterov=True),
        (mnist["x_train"], mnist["y_train"]),
        (mnist["x_test"], mnist["y_test"]),
        epochs=3,
        batch_size=128,
        rng=rng,
        schedule=OneCycle(peak=0.2),
        transform=scaling.transform,
        shards=shards,
        blas_threads=threads,
    ):
        reached = epoch.validation["accuracy"]
        print(json.dumps({"epochs": epoch.epoch, "accuracy": reached}))
        if reached >= accuracy:
            break


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
