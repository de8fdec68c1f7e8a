"""The training loop: `Training` can be stopped after any step and resumed to the same bits.

`fit`, runs, estimators and the benchmark all drive its one generator, `Training.steps`.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from minidl import blas, kernels
from minidl.best import BestWeights, EarlyStopping
from minidl.data.batches import Augment, Batches, Rows, Transform, transformed
from minidl.data.disk import DiskRows
from minidl.divergence import ADVICE, explain_divergence
from minidl.errors import DivergenceError, ParameterError, require, require_instance
from minidl.evaluation import checked_rows, loss_and_metrics, predict_outputs
from minidl.kernels import Array
from minidl.layers.layer import Scratch
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.parallel import BatchStep
from minidl.progress import Epoch, Progress, check_state
from minidl.ranks import Ranks
from minidl.schedules import Constant, Schedule

TRAIN_METRIC_ROWS = 5000


class Training:
    """The resumable loop over epochs and batches.

        for epoch in training.steps():  # an Epoch after the last step of each, otherwise None
            ...
        training.use_best()

    Parameters as for `fit`, and these:

    order: epoch, from 0, -> the order of its rows; by default a permutation drawn from `rng`.
    join_single_row: whether a last batch of one row joins the one before it.
    l2: an L2 penalty in the loss of l2 / (2 * total weight of the batch) * sum of squared weights;
    the `weight_decay` of an optimizer, by contrast, does not depend on the size of the batch.
    ranks: the processes that train together, where there are several.

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
        order: Callable[[int], Array] | None = None,
        join_single_row: bool = True,
        l2: float = 0.0,
        ranks: Ranks | None = None,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("shards", shards)):
            require(name, value, value >= 1 and value == int(value), "a whole number, at least 1")
        require_instance("model", model, Sequential)
        require_instance("loss_function", loss_function, Loss)
        require_instance("optimizer", optimizer, Optimizer)
        self._schedule = Constant() if schedule is None else schedule
        require_instance("schedule", self._schedule, Schedule)
        if early_stopping is not None and validation is None:
            raise ParameterError("early_stopping", "needs validation data")
        self.model, self.loss_function, self.optimizer = model, loss_function, optimizer
        self.epochs, self.batch_size, self.train_metrics = epochs, batch_size, train_metrics
        self.best = BestWeights(model, loss_function, monitor, early_stopping, ema)
        self._mix, self._rng, self._transform = mix, np.random.default_rng(rng), transform
        with np.errstate(all="ignore"):  # a step will say what is not finite
            check = partial(checked_rows, model, loss_function, transform)
            self.train = check("train", train)
            self.validation = None if validation is None else check("validation", validation)
            n_rows = self.train.X.shape[0]
            require("shards", shards, shards <= n_rows, f"at most {n_rows}, the training rows")
            least = 1 if ranks is None else ranks.size
            require("shards", shards, shards >= least, f"at least {least}, one for each rank")
            if transform is not None and augment is None:
                self._transform_once(transform)
        self._step = BatchStep(model, loss_function, optimizer, shards=shards, l2=l2, ranks=ranks)
        self._predict_outputs = predict_outputs if ranks is None else ranks.predict_outputs
        self._batches = Batches(
            self.train,
            batch_size=batch_size,
            dtype=model.dtype,
            transform=self._transform,
            augment=augment,
            join_single_row=join_single_row,
            part=None if ranks is None or mix is not None else self._step.own_rows,
        )
        self.steps_per_epoch = len(self._batches)
        self._n_steps = self.steps_per_epoch * epochs
        if blas_threads is None:
            blas_threads = blas.automatic_threads(model.params.size * batch_size)
        self.blas_threads = blas_threads
        self._order = self._permutation if order is None else order
        self._scratch: list[Scratch] | None = None
        self._at = Progress()
        self._first_step, self._diverged = 0, False
        self._epoch_start = self._rng.bit_generator.state
        self._feed: Iterator[Rows] | None = None

    def __repr__(self) -> str:
        done = f"epoch {self._at.epoch} of {self.epochs}, step {self._at.step}"
        return f"Training({self.loss_function!r}, {self.optimizer!r}: {done})"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or training stopped early."""
        return self._at.epoch >= self.epochs or self._at.stopped_early

    @property
    def progress(self) -> Mapping[str, Any]:
        """The position of the training: step, epoch, batch, best_epoch, ..."""
        return dict(self._at.__dict__)

    def steps(self) -> Generator[Epoch | None, None, None]:
        """Train to the end; yield after each step: an Epoch after its last one, otherwise None.

        The numbers of threads, and NumPy's warnings about numbers that are not finite, are what
        they were before wherever an Epoch is yielded.
        """
        while not self.finished:
            with kernels.threads(self.blas_threads), np.errstate(all="ignore"):
                while (epoch := self.step()) is None:
                    yield None
            yield epoch

    def step(self) -> Epoch | None:
        """Make one step; after the last one of an epoch, validate and return what it gave.

        Raises DivergenceError where the loss or a parameter is no longer finite. NumPy may warn
        before that, and products use the threads that they are given: see `steps`.
        """
        at = self._at
        started = time.perf_counter()
        if self._feed is None:
            self._feed = self._begin_epoch()
        batch = next(self._feed)
        if self._mix is not None:
            batch = self._mix(batch, at.step)
        factor = self._schedule.factor(at.step, self._n_steps, self.steps_per_epoch)
        rate = at.learning_rate = self.optimizer.learning_rate * factor
        loss, finite = self._step(batch, rate, at.step)
        if not (finite and isfinite(loss)):
            self.model.leave_loop()
            where = explain_divergence(self.model, batch, at.step)
            at.step += 1
            raise self._divergence(at.epoch + 1, loss, where)
        self.best.after_step()
        weight = len(batch.y)
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
        self.model.leave_loop()
        if self._diverged and self.best.kept is None:
            raise DivergenceError("training diverged and no epoch before it left weights to keep")
        self.best.use()

    def begin_at(self, step: int, best_score: float | None = None) -> None:
        """Number the steps from `step` on, as one of several trainings of the same model.

        best_score: the monitored figure, higher is better, of the weights that the model has now;
        they are then the best until an epoch beats them.
        """
        self._at.step = self._first_step = step
        if best_score is not None:
            self.best.keep()
            self._at.best_score = best_score

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on: arrays, and a tree of plain values.

        The arrays are those in use; copy or write them before the next step.
        """
        return {
            "params": self.model.params,
            "buffers": self.model.buffers,
            "optimizer": self.optimizer.state(),
            "progress": dict(self._at.__dict__),
            "rng": self._epoch_start,
            **self.best.state(),
        }

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
            epochs=self.epochs,
            bounds=self._batches.bounds,
        )
        self.model.params[:], self.model.buffers[:] = state["params"], state["buffers"]
        self.optimizer.restore(state["optimizer"])
        self.best.restore(state)
        self._rng.bit_generator.state = self._epoch_start = state["rng"]
        self._at, self._feed, self._diverged = at, None, False

    def _transform_once(self, transform: Transform) -> None:
        """Transform all rows now and not in each epoch, where the memory for them is there."""
        dtype = self.model.dtype
        train = transformed(self.train, transform, dtype)
        validation = self.validation and transformed(self.validation, transform, dtype)
        if train and (validation or self.validation is None):
            self.train, self.validation, self._transform = train, validation, None

    def _begin_epoch(self) -> Iterator[Rows]:
        """The remaining batches of the current epoch."""
        self._scratch = self.model.enter_loop(self._scratch)
        self._step.differentiation.begin_epoch()
        self._epoch_start = self._rng.bit_generator.state
        return self._batches.in_order(self._order(self._at.epoch), self._at.batch, self._at.step)

    def _permutation(self, epoch: int) -> Array:
        X, rng = self.train.X, self._rng
        return X.shuffled(rng) if isinstance(X, DiskRows) else rng.permutation(X.shape[0])

    def _end_epoch(self) -> Epoch:
        at = self._at
        started = time.perf_counter()
        self.model.leave_loop()
        at.epoch += 1
        train = {"loss": at.epoch_loss / at.epoch_weight}
        validation: dict[str, float] = {}
        improved = True
        with self.best.candidate():
            if self.train_metrics:
                train = self._measure(self.train.select(slice(0, TRAIN_METRIC_ROWS))) | train
            if self.validation is not None:
                validation = self._measure(self.validation)
                if not isfinite(loss := validation["loss"]):
                    where = f"that is the loss on the validation rows; {ADVICE}"
                    raise self._divergence(at.epoch, loss, where)
                improved = self.best.judge(validation, at)
        self._feed = None
        self._epoch_start = self._rng.bit_generator.state
        seconds = at.seconds + time.perf_counter() - started
        at.batch, at.epoch_loss, at.epoch_weight, at.seconds = 0, 0.0, 0.0, 0.0
        return Epoch(at.epoch, at.step, at.learning_rate, train, validation, seconds, improved)

    def _measure(self, rows: Rows) -> dict[str, float]:
        """The figures of rows whose targets were checked once, at the start."""
        outputs = self._predict_outputs(self.model, rows.X, transform=self._transform)
        extra = {self.best.monitor} & {*self.loss_function.extra_metric_names}
        return loss_and_metrics(self.loss_function, outputs, rows.y, rows.sample_weight, extra)

    def _divergence(self, epoch: int, loss: float, where: str) -> DivergenceError:
        self._diverged = True
        return DivergenceError(
            f"training diverged in epoch {epoch}, step {self._at.step} (learning rate "
            f"{self._at.learning_rate:.3g}, loss {loss:.3g}): {where}"
        )
