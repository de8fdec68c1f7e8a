"""A run: an experiment trained in its folder, recorded, interrupted, resumed, finished.

A run may end between any two steps: its folder holds all that it needs to go on with the same bits.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from minidl import checkpoint
from minidl.config import Config, differences, dump, parse
from minidl.data.dataset import fingerprint
from minidl.errors import CheckpointError, ConfigError, DataError, DivergenceError
from minidl.evaluation import loss_and_metrics
from minidl.progress import Epoch
from minidl.runs import machine
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import Interrupts

LARGEST_COST = 0.03  # of the time, for checkpoints that are due by time

# Settings on which no bit of the weights depends.
WITHOUT_EFFECT_ON_BITS = (
    "name",
    "data.path",  # the fingerprint shows whether the data differ
    "data.fallback",
    "train.checkpoint_every",
    "evaluation",
    "output",
)


def changes_bits(key: str) -> bool:
    """Whether the weights depend on the setting with this key path."""
    return not any(f"{key}.".startswith(f"{name}.") for name in WITHOUT_EFFECT_ON_BITS)


class Run:
    """An experiment in its folder, whose lock is held.

        with Run(experiment, folder) as run:
            run.resume(warn)
            for epoch in run.steps(): ...
            if run.training.finished:
                results = run.finish()

    As a context manager it keeps the status in run.json up to date: running, then finished,
    interrupted, diverged or failed. A signal (see `Interrupts`) then ends `steps` after the step in
    progress, with a checkpoint; after the last step it lets the run be finished.

    stopped_by: the number of the signal that arrived, also after the last step, or None.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder) -> None:
        self.experiment, self.folder = experiment, folder
        self.training = experiment.training()
        self.train_seconds = 0.0
        self.stopped_by: int | None = None
        self._config = dump(experiment.config)
        self._fingerprint = fingerprint(experiment.dataset)
        self._machine = machine.describe()
        self._started = machine.now()
        self._saved_step = -1
        self._status = ""  # nothing written yet
        self._interrupts = Interrupts()
        self._ranks = experiment.ranks
        if self._ranks is not None:
            self._ranks.asks_to_stop = lambda: self._interrupts.received or 0

    def __enter__(self) -> Self:
        self._interrupts.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and self._status not in ("", "finished"):
                self._status = "diverged" if issubclass(kind, DivergenceError) else "failed"
                with suppress(CheckpointError):  # the disk may be what it failed from
                    self._write_status()
            elif self._status:
                if self._status == "running":  # the caller left the loop
                    self._status = "interrupted"
                self._write_status()
        finally:
            self._interrupts.__exit__()
            self.stopped_by = self.stopped_by or self._interrupts.received

    def loss_so_far(self) -> float:
        """The mean training loss of the current epoch, NaN before its first step."""
        at = self.training.progress
        return float(at["epoch_loss"] / at["epoch_weight"]) if at["epoch_weight"] else math.nan

    def resume(self, warn: Callable[[str], None]) -> bool:
        """Go on from the newest good checkpoint; return False where there is none.

        Raises ConfigError or DataError, with the difference, where the experiment is not the one
        that was begun, CheckpointError where there are checkpoints and none can be used.
        """

        def use(path: Path, state: dict[str, Any], about: dict[str, Any]) -> None:
            try:
                former = parse(about["config"], str(path))
            except (ConfigError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{path} holds no config of a run: {error}") from error
            try:
                self._check_same(path, former, about, warn)
                self.training.restore(state)
                self.train_seconds = float(about["train_seconds"])
                self._started = str(about["started"])
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
                raise CheckpointError(f"{path} does not fit this run: {error}") from error
            self._saved_step = self.training.progress["step"]

        return checkpoint.recover(self.folder.checkpoints, use, warn)

    def steps(self) -> Generator[Epoch | None, None, None]:
        """Train; yield after each step: an Epoch after the last one of each, otherwise None."""
        training = self.training
        step = training.progress["step"]
        self.folder.begin(self._config)
        self._status = "running"
        self._write_status()
        self.folder.metrics.cut(step)  # what was recorded after this step
        if self._ranks is not None:
            self._ranks.start(training.state())
        every = self.experiment.config.train.checkpoint_every
        now = time.perf_counter()
        self._began, due = now - self.train_seconds, now + (every.seconds or 0)
        for epoch in training.steps():
            step += 1
            if epoch is not None:
                self.folder.metrics.append(epoch)
            if every.seconds is not None:
                save = time.perf_counter() >= due
            elif every.steps is not None:
                save = step % every.steps == 0
            else:
                save = epoch is not None and epoch.epoch % (every.epochs or 1) == 0
            if save or self._asked_to_stop:
                before = time.perf_counter()
                self.save()
                now = time.perf_counter()
                # Most of the time is spent on training, also with a large model and a slow disk.
                due = now + max(every.seconds or 0, (now - before) / LARGEST_COST)
            yield epoch
            if self._asked_to_stop and self._saved_step == step:
                break
        self.train_seconds = time.perf_counter() - self._began
        if not training.finished:
            self.stopped_by = self._asked_to_stop
            self._status = "interrupted"

    @property
    def _asked_to_stop(self) -> int | None:
        """The number of a signal; all ranks stop after the same step."""
        return self._interrupts.received if self._ranks is None else self._ranks.stop

    def save(self) -> None:
        """Write a checkpoint."""
        self.train_seconds = time.perf_counter() - self._began
        self.folder.metrics.sync()
        about = {
            "config": self._config,
            "data_fingerprint": self._fingerprint,
            "machine": self._machine,
            "started": self._started,
            "train_seconds": self.train_seconds,
        }
        checkpoint.save(self.folder.checkpoints, self.training.state(), about)
        self._saved_step = self.training.progress["step"]

    def finish(self) -> dict[str, Any]:
        """Use the best weights, measure the test part once, write model.npz and results.json."""
        if self._saved_step != self.training.progress["step"]:
            self.save()
        self.training.use_best()
        self.experiment.predictor().save(self.folder.model)
        results = self._results()
        self.folder.write_json(self.folder.results, results)
        self._status = "finished"
        return results

    def _check_same(
        self, path: Path, former: Config, about: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        """Refuse to go on where the bits would not be those of the run that was begun."""
        config = self.experiment.config
        found = differences(former, config)
        epochs = found.pop("train.epochs", None)
        wrong = [
            f"{key}: {_shown(before)} when the run was begun, {_shown(now)} now"
            for key, (before, now) in found.items()
            if changes_bits(key)
        ]
        if epochs is not None:
            before, now = int(str(epochs[0])), config.train.epochs
            if now < before:
                wrong.append(f"train.epochs: can be raised, not lowered from {before} to {now}")
            elif self.experiment.schedule.depends_on_total:
                wrong.append(
                    f"train.epochs: cannot be raised from {before} to {now}: the learning rates "
                    f"of the schedule '{config.train.schedule.name}' depend on the number of "
                    "epochs, also those of the steps already made"
                )
        if wrong:
            lines = "\n  ".join(wrong)
            raise ConfigError(f"cannot go on from {path}: the config differs:\n  {lines}")
        former_data, arrays = str(about["data_fingerprint"]), self._fingerprint.split(".")[0]
        if former_data not in (self._fingerprint, arrays):  # older checkpoints hold the latter
            why = f"SHA-256 {former_data[:16]}... when the run was begun, {arrays[:16]}... now"
            if former_data.split(".")[0] == arrays:
                why = (
                    "the numbers are those of the run that was begun, its class labels, categories "
                    "or column names are not"
                )
            raise DataError(f"cannot go on from {path}: the data differs: {why}")
        for key in ("kernels", "numpy", "blas", "processor"):
            if about["machine"].get(key) != self._machine[key]:
                warn(
                    f"{key} was {about['machine'].get(key)} when the run was begun and is "
                    f"{self._machine[key]} now: the last bits of the results may differ"
                )

    def _results(self) -> dict[str, Any]:
        experiment, progress = self.experiment, self.training.progress
        test = experiment.test
        results: dict[str, Any] = {
            "dataset": experiment.dataset.name,
            "n_train": len(experiment.train.y),
            "n_validation": len(experiment.validation.y) if experiment.validation else 0,
            "n_test": 0 if test is None else len(test.y),
            "n_parameters": int(experiment.model.params.size),
            "epochs": progress["epoch"],
            "best_epoch": progress["best_epoch"] or progress["epoch"],
            "train_seconds": round(self.train_seconds, 3),
        }
        if test is not None:
            loss_function = experiment.loss_function
            extra = loss_function.extra_metric_names
            with experiment.threads():
                outputs = experiment.outputs(test.X)
                figures = loss_and_metrics(loss_function, outputs, test.y, extra=extra)
            results |= {f"test_{name}": v for name, v in figures.items() if math.isfinite(v)}
            if experiment.dataset.n_classes is not None and test.y.ndim == 1:
                n = experiment.dataset.n_classes
                predicted = loss_function.predict_targets(outputs).reshape(-1)
                pairs = test.y.astype(np.int64) * n + predicted  # a row is a true class
                matrix = np.bincount(pairs, minlength=n * n).reshape(n, n)
                results["confusion_matrix"] = matrix.tolist()
        return results

    def _write_status(self) -> None:
        config = self.experiment.config
        self.folder.write_json(
            self.folder.run,
            {
                "status": self._status,
                **self._machine,
                "shards": config.train.shards,
                "blas_threads": config.train.blas_threads,
                "data_fingerprint": self._fingerprint,
                "seed": config.seed,
                "started": self._started,
                "written": machine.now(),
                "train_seconds": round(self.train_seconds, 3),
                "peak_memory_bytes": machine.peak_memory_bytes(),
            },
        )


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
