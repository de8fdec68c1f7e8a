"""minidl, with the steps that `fit` makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cells import Problem
from bench.child import main, numpy_blas
from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy, kernels
from minidl.blas import automatic_threads
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.training import Training


class Minidl:
    """`Training`, with the number of threads that a run would choose."""

    race_epochs = 3

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Build the model and its training."""
        rng = np.random.default_rng(0)
        linear = [Linear(*W.shape, rng=rng) for W in problem.weights]
        self._model = Sequential([each for layer in linear for each in (layer, ReLU())][:-1])
        for layer, W in zip(linear, problem.weights, strict=True):
            layer.W[:] = W
        threads = automatic_threads(self._model.params.size * problem.batch_size)
        training = Training(
            self._model,
            SoftmaxCrossEntropy(),
            SGD(problem.learning_rate, momentum=problem.momentum, nesterov=problem.nesterov),
            (problem.X, problem.y),
            epochs=problem.epochs or 10**9,
            batch_size=problem.batch_size,
            rng=rng,
            schedule=problem.schedule,
            blas_threads=threads,
        )
        self._steps = training.steps()
        return {"kernels": kernels.name(), "threads": threads, "blas": numpy_blas()}

    def run(self, n_batches: int) -> None:
        """Make so many steps."""
        for _ in range(n_batches):
            next(self._steps)

    def outputs(self, x: Array) -> Any:
        """Return the logits."""
        return predict_outputs(self._model, x)


if __name__ == "__main__":
    main(Minidl())
