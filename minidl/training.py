"""The training loop: `Training` can be stopped after any step and resumed to the same bits.

`fit` is a thin generator over it; the experiment and the estimators drive the same loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from minidl import kernels
from minidl.data.batches import Augment, Batches, Rows, Transform
from minidl.divergence import origin
from minidl.errors import DivergenceError, ParameterError, require
from minidl.evaluation import evaluate, figures_of, predict_outputs
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer, WeightAverage
from minidl.parallel import Stepper, automatic_threads
from minidl.schedules import Constant, Schedule
from minidl.training_state import Progress, check_state

TRAIN_METRIC_ROWS = 5000

LOWER_IS_BETTER = ("loss", "rmse", "mae", "deviance")


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; `train` and `validation` map "loss" and the loss's metrics to figures.

    epoch: from 1.  step: steps made since the start.  learning_rate: of the last step.
    train: "loss" is the mean over the epoch's batches, each before its step; metrics only where
    asked for.  validation: empty where nothing is validated.  seconds: of training and validation.
    improved: whether these are the best weights so far.
    """

    epoch: int
    step: int
    learning_rate: float
    train: Mapping[str, float]
    validation: Mapping[str, float]
    seconds: float
    improved: bool


@dataclass
class EarlyStopping:
    """Stop after `patience` epochs in which the monitored figure did not improve by `min_delta`."""

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        require("patience", self.patience, self.patience >= 1, "at least 1")
        require("min_delta", self.min_delta, 0 <= self.min_delta < np.inf, "at least 0")


def _fitting_rows(
    name: str,
    data: Sequence[Any],
    model: Sequential,
    loss_function: Loss,
    transform: Transform | None,
) -> Rows:
    """The rows; a ValueError where they are incomplete, or do not fit the model or the loss."""
    rows = Rows(*data)
    for what, array in (("X", rows.X), ("targets", rows.y)):
        if not hasattr(array, "dtype"):
            raise ValueError(f"{name} needs {what} as an array, got {type(array).__name__}")
    n, expected = rows.X.shape[0], model.input_size
    if len(rows.X.shape) != 2 or n == 0:
        raise ValueError(f"{name} needs X with rows and columns, got shape {rows.X.shape}")
    for what, array in (("targets", rows.y), ("sample weights", rows.sample_weight)):
        if array is not None and len(array) != n:
            raise ValueError(f"{name} has {n} rows but {len(array)} {what}")
    if (w := rows.sample_weight) is not None and not (np.min(w) >= 0 and 0 < np.sum(w) < np.inf):
        raise ValueError(f"{name} needs sample weights that are finite, >= 0 and not all 0")
    if transform is None and expected not in (None, rows.X.shape[1]):
        raise ValueError(f"{name} has {rows.X.shape[1]} features, the model takes {expected}")
    outputs = predict_outputs(model, rows.X[:1], transform=transform)
    try:
        loss_function.check_targets(rows.y, outputs.shape[1])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return rows


class Training:
    """The resumable loop over epochs and batches.

        while not training.finished:
            epoch = training.step()  # an Epoch after the last step of each, otherwise None
        training.use_best()

    Parameters as for `fit`; `mix`: (batch as the model gets it, step) -> what it gets instead, such
    as `Mixup`; and three for loops that must take their steps as others do:
    order: epoch, from 0, -> the order of its rows; by default a permutation drawn from `rng`.
    join_single_row: whether a last batch of one row joins the one before it.
    l2: an L2 penalty in the loss of l2 / (2 * total weight of the batch) * sum of squared weights;
    the `weight_decay` of an optimizer, by contrast, does not depend on the size of the batch.

    `state()` may be taken between any two steps; a new `Training` with the same arguments that is
    given it by `restore` goes on with the same bits.
    """

    def __init__(
        self,
        model: Sequential,
        loss_function: Loss,
        optimizer: Optimizer,
        train: Sequence[Any],
        validation: Sequence[Any] | None = None,
        *,
        epochs: int,
        batch_size: int,
        rng: np.random.Generator,
        schedule: Schedule | None = None,
        transform: Transform | None = None,
        augment: Augment | None = None,
        mix: Callable[[Rows, int], Rows] | None = None,
        early_stopping: EarlyStopping | None = None,
        monitor: str = "loss",
        ema: float | None = None,
        train_metrics: bool = False,
        shards: int = 1,
        workers: int | None = None,
        order: Callable[[int], Array] | None = None,
        join_single_row: bool = True,
        l2: float = 0.0,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("shards", shards)):
            is_count = value >= 1 and value == int(value)
            require(name, value, is_count, "a whole number, at least 1")
        require("ema", ema, ema is None or 0 < ema < 1, "in (0, 1)")
        if early_stopping is not None and validation is None:
            raise ParameterError("early_stopping", "needs validation data")
        self.model, self.loss_function, self.optimizer = model, loss_function, optimizer
        with np.errstate(all="ignore"):  # a step will say what is not finite
            self.train = _fitting_rows("train", train, model, loss_function, transform)
            self.validation = None
            if validation is not None:
                self.validation = _fitting_rows(
                    "validation", validation, model, loss_function, transform
                )
                first = self.validation.select(slice(0, 1))
                figures = evaluate(model, loss_function, first.X, first.y, transform=transform)
                require("monitor", monitor, monitor in figures, f"one of {', '.join(figures)}")
        self.epochs, self.batch_size = epochs, batch_size
        self.early_stopping, self.monitor = early_stopping, monitor
        self.train_metrics = train_metrics
        self._schedule = Constant() if schedule is None else schedule
        self._transform = transform
        self._mix = mix
        self._rng = rng
        self._batches = Batches(
            self.train,
            batch_size=batch_size,
            dtype=model.dtype,
            transform=transform,
            augment=augment,
            join_single_row=join_single_row,
        )
        self.steps_per_epoch = len(self._batches)
        n_rows = self.train.X.shape[0]
        require("shards", shards, shards <= n_rows, f"at most {n_rows}, the training rows")
        self._n_steps = self.steps_per_epoch * epochs
        self._stepper = Stepper(
            model, loss_function, optimizer, shards=shards, workers=workers, l2=l2
        )
        self._order = self._permutation if order is None else order
        self._average = None if ema is None else WeightAverage(ema, model.params, model.buffers)
        self._best: tuple[Array, Array] | None = None
        self._diverged = False
        self._at = Progress()
        self._first_step = 0
        self._epoch_start = self._rng.bit_generator.state
        self._feed: Iterator[Rows] | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or training stopped early."""
        return self._at.epoch >= self.epochs or self._at.stopped_early

    @property
    def progress(self) -> Mapping[str, Any]:
        """Where training stands: step, epoch, batch, best_epoch, ..."""
        return dict(self._at.__dict__)

    def step(self) -> Epoch | None:
        """Make one step; after the last one of an epoch, validate and return what it gave.

        Raises DivergenceError where the loss or a parameter is no longer finite. NumPy may warn
        before that; a loop over steps does well to run within `np.errstate(all="ignore")`, which
        is not done here because it takes as long as a tenth of a small step.
        """
        at = self._at
        started = time.perf_counter()
        if self._feed is None:
            self._feed = self._start_feed()
        batch = next(self._feed)
        if self._mix is not None:
            batch = self._mix(batch, at.step)
        factor = self._schedule.factor(at.step, self._n_steps, self.steps_per_epoch)
        rate = at.learning_rate = self.optimizer.learning_rate * factor
        loss, finite = self._stepper.step(batch, rate, at.step)
        if not (finite and isfinite(loss) and self._buffers_finite()):
            at.step += 1
            raise self._divergence(at.epoch + 1, loss, origin(self.model, batch, at.step - 1))
        if self._average is not None:
            self._average.update(self.model.params, self.model.buffers)
        weight = batch.X.shape[0]
        at.epoch_loss += loss * weight
        at.epoch_weight += weight
        at.step += 1
        at.batch += 1
        at.seconds += time.perf_counter() - started
        return self._end_epoch() if at.batch == self.steps_per_epoch else None

    def use_best(self) -> None:
        """Put the best weights so far into the model: the last ones where nothing is validated.

        With `ema` the last ones are the averaged ones. Raises DivergenceError where training
        diverged before any weights were kept: what the model then holds is of no use.
        """
        if self._best is not None:
            self.model.params[:], self.model.buffers[:] = self._best
        elif self._diverged:
            raise DivergenceError("training diverged and no epoch before it left weights to keep")
        elif self._average is not None:
            self.model.params[:], self.model.buffers[:] = self._average.vectors
        self._stepper.share_buffers()

    def begin_at(self, step: int, best_score: float | None = None) -> None:
        """Number the steps from `step` on, as one of several trainings of the same model.

        best_score: the monitored figure, higher is better, of the weights that the model has now;
        they are then the best until an epoch beats them.
        """
        self._at.step = self._first_step = step
        if best_score is not None:
            self._at.best_score = best_score
            self._best = self.model.params.copy(), self.model.buffers.copy()

    def close(self) -> None:
        """End the worker threads, if there are any."""
        self._stepper.close()

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on: arrays, and a tree of plain values.

        Arrays are the live ones; copy or write them before the next step.
        """
        state: dict[str, Any] = {
            "params": self.model.params,
            "buffers": self.model.buffers,
            "optimizer": self.optimizer.state(),
            "progress": dict(self._at.__dict__),
            "rng": self._epoch_start,
        }
        if self._average is not None:
            state["average"] = self._average.state()
        if self._best is not None:
            state["best"] = {"params": self._best[0], "buffers": self._best[1]}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` returned, and go on from there.

        Raises ValueError for what is not a state of this training; nothing is then changed.
        """
        at = check_state(
            state,
            self.state(),
            rng=self._rng,
            average_names=self.optimizer.average_names,
            first_step=self._first_step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.epochs,
            n_rows=self.train.X.shape[0],
        )
        for vector, name in ((self.model.params, "params"), (self.model.buffers, "buffers")):
            vector[:] = state[name]
        self._stepper.share_buffers()
        self.optimizer.restore(state["optimizer"])
        if self._average is not None:
            self._average.restore(state["average"])
        best = state.get("best")
        self._best = None if best is None else (best["params"].copy(), best["buffers"].copy())
        self._rng.bit_generator.state = self._epoch_start = state["rng"]
        self._at, self._feed, self._diverged = at, None, False

    def _start_feed(self) -> Iterator[Rows]:
        """The batches of the present epoch from where it stands."""
        self._epoch_start = self._rng.bit_generator.state
        order = self._order(self._at.epoch)
        return self._batches.in_order(order, self._at.batch, self._at.step)

    def _permutation(self, epoch: int) -> Array:
        return self._rng.permutation(self.train.X.shape[0])

    def _end_epoch(self) -> Epoch:
        at = self._at
        started = time.perf_counter()
        at.epoch += 1
        train = {"loss": at.epoch_loss / at.epoch_weight}
        validation, improved = self._validate(train)
        self._feed = None
        self._epoch_start = self._rng.bit_generator.state
        seconds = at.seconds + time.perf_counter() - started
        at.batch, at.epoch_loss, at.epoch_weight, at.seconds = 0, 0.0, 0.0, 0.0
        return Epoch(at.epoch, at.step, at.learning_rate, train, validation, seconds, improved)

    def _validate(self, train: dict[str, float]) -> tuple[dict[str, float], bool]:
        """Measure the weights that would be kept now; keep them if they are the best so far."""
        at, model = self._at, self.model
        if self.validation is None and not self.train_metrics:
            return {}, True
        current = None
        if self._average is not None:
            current = model.params.copy(), model.buffers.copy()
            model.params[:], model.buffers[:] = self._average.vectors
        try:
            if self.train_metrics:
                measured = self._measure(self.train.select(slice(0, TRAIN_METRIC_ROWS)))
                train.update({k: v for k, v in measured.items() if k != "loss"})
            if self.validation is None:
                return {}, True
            with np.errstate(all="ignore"):
                validation = self._measure(self.validation)
            if not isfinite(loss := validation["loss"]):
                raise self._divergence(at.epoch, loss, "that is the loss on the validation rows")
            improved = self._judge(validation)
            if improved:
                self._best = model.params.copy(), model.buffers.copy()
                at.best_epoch = at.epoch
            return validation, improved
        finally:
            if current is not None:
                model.params[:], model.buffers[:] = current

    def _measure(self, rows: Rows) -> dict[str, float]:
        """The figures of rows whose targets were checked once, at the start."""
        outputs = predict_outputs(self.model, rows.X, transform=self._transform)
        return figures_of(self.loss_function, outputs, rows.y, rows.sample_weight)

    def _judge(self, validation: Mapping[str, float]) -> bool:
        """Return whether the monitored figure is the best; count the epochs in which it was not."""
        at = self._at
        score = validation[self.monitor]
        if self.monitor in LOWER_IS_BETTER:
            score = -score
        margin = 0.0 if self.early_stopping is None else self.early_stopping.min_delta
        # A score that is no number is worse than any: it is kept for want of a better one.
        improved = at.best_score is None or score > at.best_score
        if at.best_score is None or score > at.best_score + margin:
            at.epochs_without_improvement = 0
        else:
            at.epochs_without_improvement += 1
        if improved and isfinite(score):
            at.best_score = score
        if self.early_stopping is not None:
            at.stopped_early = at.epochs_without_improvement >= self.early_stopping.patience
        return improved

    def _buffers_finite(self) -> bool:
        buffers = self.model.buffers
        return buffers.size == 0 or bool(np.isfinite(buffers).all())

    def _divergence(self, epoch: int, loss: float, where: str) -> DivergenceError:
        self._diverged = True
        return DivergenceError(
            f"training diverged in epoch {epoch}, step {self._at.step} (learning rate "
            f"{self._at.learning_rate:.3g}, loss {loss:.3g}): {where}; try a smaller "
            "learning_rate, a warmup, or clip_grad_norm"
        )


def fit(
    model: Sequential,
    loss_function: Loss,
    optimizer: Optimizer,
    train: Sequence[Any],
    validation: Sequence[Any] | None = None,
    *,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    blas_threads: int | None = None,
    **options: Any,
) -> Generator[Epoch, None, None]:
    """Train the model, yielding one record an epoch.

        for epoch in fit(model, loss_function, optimizer, (X, y), (X_val, y_val), epochs=10,
                         batch_size=128, rng=rng):
            print(epoch.epoch, epoch.validation["accuracy"])

    However the loop ends, also by `break`, an error or Ctrl-C, the model then holds the best
    weights so far. Only where training diverges before there are any does it hold the weights with
    which it diverged.

    Parameters
    ----------
    train, validation : (X, y) or (X, y, sample_weight). X: (n_samples, n_in), an array or a CSR
        matrix; y as the loss function wants it. Without validation the last weights are the best.
    epochs, batch_size : at least 1. A single row left over joins the last batch.
    rng : draws the order of the rows in each epoch.
    blas_threads : threads of a matrix product, by default chosen from the sizes and the cores;
        the former number is given back at every yield. The bits of a result depend on it.

    Options
    -------
    schedule : a Schedule; the learning rate is the optimizer's times its factor.
    transform : raw rows -> the model's inputs, batch by batch, such as `preprocessing.transform`.
    augment : (raw rows, step, first row) -> distorted rows, for training only.
    mix : (batch, step) -> batch, after the transform, such as `Mixup`.
    early_stopping : EarlyStopping(patience, min_delta); needs validation.
    monitor : the validation figure that decides what is best: "loss" or a metric of the loss.
    ema : decay in (0, 1) of an average of the weights, which is then what is validated and kept.
    train_metrics : whether each epoch measures the loss's metrics on 5,000 training rows, too.
    shards, workers : parts of a batch whose gradients are summed in order, and the threads that
        run them. The bits of a result depend on shards, and not on workers.

    Raises ValueError for what does not fit together, before the first step, and DivergenceError
    in the step in which the loss or a parameter is no longer finite.
    """
    if blas_threads is None:
        blas_threads = automatic_threads(model, batch_size)[1]
    training = Training(
        model,
        loss_function,
        optimizer,
        train,
        validation,
        epochs=epochs,
        batch_size=batch_size,
        rng=rng,
        **options,
    )
    try:
        while not training.finished:
            # What is not finite is found by the training itself, and said once.
            with kernels.threads(blas_threads), np.errstate(all="ignore"):
                while (epoch := training.step()) is None:
                    pass
            yield epoch
    finally:
        training.close()
        with suppress(DivergenceError):  # it is on its way to the caller
            training.use_best()
