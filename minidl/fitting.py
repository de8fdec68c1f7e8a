"""`fit`: the training loop as one call."""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from minidl.best import EarlyStopping
from minidl.data.batches import Augment, Rows, Transform
from minidl.errors import DivergenceError
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.progress import Epoch
from minidl.schedules import Schedule
from minidl.training import Training


def fit(
    model: Sequential,
    loss_function: Loss,
    optimizer: Optimizer,
    train: Sequence[Any],
    validation: Sequence[Any] | None = None,
    *,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator | int,
    schedule: Schedule | None = None,
    transform: Transform | None = None,
    augment: Augment | None = None,
    mix: Callable[[Rows, int], Rows] | None = None,
    monitor: str = "loss",
    early_stopping: EarlyStopping | None = None,
    ema: float | None = None,
    train_metrics: bool = False,
    shards: int = 1,
    blas_threads: int | None = None,
) -> Generator[Epoch, None, None]:
    """Train the model, yielding one record an epoch.

        for epoch in fit(model, loss_function, optimizer, (X, y), (X_val, y_val), epochs=10,
                         batch_size=128, rng=0):
            print(epoch.epoch, epoch.validation["accuracy"])

    After the loop, also after `break`, an error or Ctrl-C, the model holds the best weights so far.
    If training diverges before any weights were kept, it holds those with which it diverged.

    Parameters
    ----------
    train, validation : (X, y) or (X, y, sample_weight). X: (n_samples, n_in), an array or a CSR
        matrix; y as the loss function wants it. Without validation the last weights are the best.
    epochs, batch_size : at least 1. A single row left over joins the last batch.
    rng : a generator that draws the order of the rows in each epoch, or its seed.
    schedule : the learning rate is the optimizer's times its factor.
    transform : raw rows -> the model's inputs, each row by itself, such as
        `preprocessing.transform`. Rows are transformed once, before the first step; batch by batch
        where they are augmented or would take more than 1 GiB.
    augment : (raw rows, step, first row) -> distorted rows, for training only.
    mix : (batch, step) -> batch, after the transform, such as `Mixup`.
    monitor : the validation figure that decides what is best: "loss" or a metric of the loss.
    early_stopping : EarlyStopping(patience, min_delta); needs validation.
    ema : decay in (0, 1) of an average of the weights, which is then what is validated and kept.
    train_metrics : whether each epoch measures the loss's metrics on 5,000 training rows, too.
    shards : parts of a batch whose gradients are added in a fixed tree. The bits depend on it.
    blas_threads : threads of a matrix product, by default chosen from the sizes and the cores;
        the former number is given back at every yield. The bits depend on it.

    Raises ValueError for what does not fit together, before the first step, and DivergenceError
    in the step in which the loss or a parameter is no longer finite.
    """
    training = Training(
        model,
        loss_function,
        optimizer,
        train,
        validation,
        epochs=epochs,
        batch_size=batch_size,
        rng=rng,
        schedule=schedule,
        transform=transform,
        augment=augment,
        mix=mix,
        monitor=monitor,
        early_stopping=early_stopping,
        ema=ema,
        train_metrics=train_metrics,
        shards=shards,
        blas_threads=blas_threads,
    )
    try:
        yield from (epoch for epoch in training.steps() if epoch is not None)
    finally:
        with suppress(DivergenceError):  # it is on its way to the caller
            training.use_best()
