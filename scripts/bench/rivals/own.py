"""minidl, with the steps that `fit` makes and the number of threads that a run would choose."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cells import Problem
from bench.child import main, numpy_blas
from minidl import SGD, Linear, OneCycle, ReLU, Sequential, SoftmaxCrossEntropy, kernels
from minidl.evaluation import predict_outputs
from minidl.training import Training


def training_of(problem: Problem, **options: Any) -> Training:
    """Return the training of a new model, with further options of `Training`."""
    rng = np.random.default_rng(0)
    linear = [Linear(*W.shape, rng=rng) for W in problem.weights]
    for layer, W in zip(linear, problem.weights, strict=True):
        layer.W[:] = W
    return Training(
        Sequential([each for layer in linear for each in (layer, ReLU())][:-1]),
        SoftmaxCrossEntropy(problem.label_smoothing),
        SGD(
            problem.learning_rate,
            momentum=problem.momentum,
            nesterov=problem.nesterov,
            weight_decay=problem.weight_decay,
        ),
        (problem.X, problem.y),
        epochs=problem.epochs or 10**9,
        batch_size=problem.batch_size,
        rng=rng,
        schedule=OneCycle(peak=0.2) if problem.epochs else None,  # the rates of the problem
        **options,
    )


def prepare(problem: Problem) -> Any:
    """Build the model and its training."""
    training = training_of(problem)
    steps = training.steps()

    def run(rates: list[float]) -> None:
        for _ in rates:
            next(steps)

    settings = {"kernels": kernels.name(), "threads": training.blas_threads, "blas": numpy_blas()}
    return run, partial(predict_outputs, training.model), settings


if __name__ == "__main__":
    main(prepare)
