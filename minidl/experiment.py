"""A config becomes data, model, head, optimizer, and a run in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minidl import run_folder
from minidl._version import __version__
from minidl.config import Choice, Config, dump, load_config
from minidl.data.batches import Rows
from minidl.data.datasets import Dataset, fingerprint
from minidl.data.preprocessing import Preprocessing
from minidl.data.splits import Split, split
from minidl.errors import DataError, MinidlError
from minidl.layers.layer import Array, Layer
from minidl.losses import Head
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.parallel import automatic_threads, blas_threads
from minidl.predictor import Predictor
from minidl.run_folder import RunFolder
from minidl.schedules import Schedule
from minidl.training import EarlyStopping, Epoch, Training, evaluate, predict_outputs

PURPOSES = ("init", "split", "shuffle", "noise", "augmentation")

Made = TypeVar("Made")


def random_streams(seed: int) -> dict[str, np.random.Generator]:
    """Return one generator for each purpose, all from one seed and independent of each other."""
    children = np.random.SeedSequence(seed).spawn(len(PURPOSES))
    return {
        purpose: np.random.default_rng(child)
        for purpose, child in zip(PURPOSES, children, strict=True)
    }


@dataclass(frozen=True)
class Experiment:
    """Everything that a config names, built: ready to train, nothing written yet.

    config: resolved, with the automatic choices as numbers.  train, validation, test: raw rows.
    """

    config: Config
    dataset: Dataset
    train: Split
    validation: Split | None
    test: Split | None
    preprocessing: Preprocessing
    model: Sequential
    head: Head
    optimizer: Optimizer
    schedule: Schedule
    streams: dict[str, np.random.Generator]

    @classmethod
    def build(cls, config: Config) -> Experiment:
        """Load the data and build the model; raise DataError or ConfigError for what is wrong."""
        dataset = _blaming(config, "data", config.data.dataset.build)
        streams = random_streams(config.seed)
        train, validation, test = _blaming(
            config,
            "data",
            lambda: split(
                dataset,
                validation=config.data.validation,
                test=config.data.test,
                method=config.data.split,
                rng=streams["split"],
            ),
        )
        head: Head = config.loss.build()
        n_outputs = _n_outputs(config, dataset, head)
        preprocessing: Preprocessing = config.data.preprocessing.build()
        preprocessing.fit(train.X)
        dtype = np.dtype(config.train.dtype)
        layers, choices, _ = _build_layers(
            config, config.model, "model", preprocessing.n_out, n_outputs, streams, dtype
        )
        model = _blaming(config, "model", lambda: Sequential(layers))
        n_made = _model_outputs(model, preprocessing.n_out)
        if n_made != n_outputs:
            last = max(i for i, choice in enumerate(config.model) if "n_out" in choice.options)
            raise config.error(
                f"model.{last}",
                f"the model has {n_made} outputs, but {dataset.name} with "
                f"{config.loss.name} needs {n_outputs}; write 'linear: auto'",
            )
        _blaming(config, "loss", lambda: head.check_targets(dataset.y, n_outputs))
        settings = config.train
        groups = model.parameter_groups(
            settings.learning_rate_multipliers.model_dump(), settings.max_norm
        )
        optimizer: Optimizer = settings.optimizer.build(
            groups=groups,
            clip_grad_norm=settings.clip_grad_norm,
            clip_grad_value=settings.clip_grad_value,
        )
        resolved = _resolved(config, choices, model)
        return cls(
            resolved,
            dataset,
            train,
            validation,
            test,
            preprocessing,
            model,
            head,
            optimizer,
            settings.schedule.build(),
            streams,
        )

    def transform(self, X: Any) -> Any:
        """Raw rows as the model's inputs."""
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def training(self) -> Training:
        """Return the loop over this experiment, at its start."""
        settings = self.config.train
        stopping = settings.early_stopping
        assert isinstance(settings.shards, int) and isinstance(settings.workers, int)
        return _blaming(
            self.config,
            "train",
            lambda: Training(
                self.model,
                self.head,
                self.optimizer,
                Rows(self.train.X, self.train.y),
                None if self.validation is None else Rows(self.validation.X, self.validation.y),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                rng=self.streams["shuffle"],
                schedule=self.schedule,
                transform=self.transform,
                early_stopping=None
                if stopping is None
                else EarlyStopping(stopping.patience, stopping.min_delta),
                monitor=settings.monitor,
                ema=settings.ema,
                train_metrics=True,
                shards=settings.shards,
                workers=settings.workers,
            ),
        )

    def predictor(self) -> Predictor:
        """Return the model with all that a prediction from raw features needs."""
        return Predictor(
            self.model,
            self.head,
            self.preprocessing,
            self.dataset.classes,
            self.dataset.feature_names,
        )


class Run:
    """An experiment in its folder: trained step by step, recorded epoch by epoch."""

    def __init__(self, experiment: Experiment, folder: RunFolder) -> None:
        self.experiment, self.folder = experiment, folder
        self.training = experiment.training()
        self.train_seconds = 0.0
        self._started = run_folder.now()

    def start(self) -> None:
        """Write config.yaml and run.json."""
        self.folder.write_text(self.folder.config, dump(self.experiment.config))
        self._write_status("running")

    def steps(self) -> Generator[Epoch | None, None, None]:
        """Train; yield after each step, the record of an epoch after its last step, else None."""
        threads = self.experiment.config.train.blas_threads
        assert isinstance(threads, int)
        started = time.perf_counter()
        with blas_threads(threads):
            try:
                while not self.training.finished:
                    epoch = self.training.step()
                    if epoch is not None:
                        self.folder.append_metrics(epoch)
                    yield epoch
            finally:
                self.training.close()
                self.train_seconds += time.perf_counter() - started

    def finish(self) -> dict[str, Any]:
        """Keep the best weights, read the test set once, write model.npz and results.json."""
        self.training.use_best()
        self.experiment.predictor().save(self.folder.model)
        results = self._results()
        self.folder.write_json(self.folder.results, results)
        self._write_status("finished")
        return results

    def _results(self) -> dict[str, Any]:
        experiment, progress = self.experiment, self.training.progress
        test = experiment.test
        results: dict[str, Any] = {
            "dataset": experiment.dataset.name,
            "n_train": len(experiment.train),
            "n_validation": 0 if experiment.validation is None else len(experiment.validation),
            "n_test": 0 if test is None else len(test),
            "n_parameters": int(experiment.model.params.size),
            "epochs": progress["epoch"],
            "best_epoch": progress["best_epoch"] or progress["epoch"],
            "train_seconds": round(self.train_seconds, 3),
        }
        if test is not None:
            figures = evaluate(
                experiment.model, experiment.head, test.X, test.y, transform=experiment.transform
            )
            results |= {f"test_{name}": value for name, value in figures.items()}
            if experiment.dataset.is_classification:
                results["confusion_matrix"] = self._confusion_matrix(test)
        return results

    def _confusion_matrix(self, test: Split) -> list[list[int]]:
        """Counts: one row a true class, one column a predicted one."""
        experiment = self.experiment
        outputs = predict_outputs(experiment.model, test.X, transform=experiment.transform)
        n = experiment.dataset.n_classes or 0
        predicted = outputs.argmax(axis=1) if outputs.shape[1] > 1 else outputs[:, 0] > 0
        counts = np.bincount(test.y.astype(np.int64) * n + predicted, minlength=n * n)
        return [[int(count) for count in row] for row in counts.reshape(n, n)]

    def _write_status(self, status: str) -> None:
        config = self.experiment.config
        self.folder.write_json(
            self.folder.run,
            {
                "status": status,
                "minidl": __version__,
                **run_folder.machine(),
                "shards": config.train.shards,
                "blas_threads": config.train.blas_threads,
                "workers": config.train.workers,
                "data_fingerprint": fingerprint(self.experiment.dataset),
                "seed": config.seed,
                "started": self._started,
                "written": run_folder.now(),
                "train_seconds": round(self.train_seconds, 3),
                "peak_memory_bytes": run_folder.peak_memory_bytes(),
            },
        )


def build_or_fall_back(config: Config, announce: Callable[[str], None]) -> Experiment:
    """Build the experiment, or where its data cannot be had that of `data.fallback`."""
    try:
        return Experiment.build(config)
    except DataError as error:
        if config.data.fallback is None:
            raise
        fallback = load_config(Path(config.data.fallback))
        announce(
            f"{config.data.dataset.name} cannot be had: {error}\n"
            f"training {config.data.fallback} instead, on {fallback.data.dataset.name}"
        )
        return Experiment.build(fallback.model_copy(update={"seed": config.seed}))


def _n_outputs(config: Config, dataset: Dataset, head: Head) -> int:
    """How many outputs the head needs for this data set."""
    wants_labels = head.task != "regression"
    if wants_labels != dataset.is_classification:
        kind = "a classification" if dataset.is_classification else "a regression"
        raise config.error("loss", f"{config.loss.name} does not fit {dataset.name}, {kind}")
    if head.task == "multilabel" and dataset.n_classes != 2:
        raise config.error(
            "loss", f"{config.loss.name} is for two classes, {dataset.name} has {dataset.n_classes}"
        )
    if head.task == "classification":
        assert dataset.n_classes is not None
        return dataset.n_classes
    return head.n_outputs(dataset.y)


def _build_layers(
    config: Config,
    choices: tuple[Choice, ...],
    path: str,
    size: int,
    n_outputs: int,
    streams: dict[str, np.random.Generator],
    dtype: np.dtype[Any],
) -> tuple[list[Layer], list[Choice], int]:
    """Build the layers one after the other, each on the features that the one before it gives.

    Returns the layers, the choices with `auto` resolved, and the number of features at the end.
    """
    layers: list[Layer] = []
    resolved: list[Choice] = []
    for i, choice in enumerate(choices):
        here = f"{path}.{i}"
        if choice.options.get("n_out") == "auto":
            choice = choice.model_copy(update={"n_out": n_outputs})
        supplied: dict[str, Any] = {"n_in": size, "n_features": size, "dtype": dtype}
        if choice.layers:
            inner, inner_choices, _ = _build_layers(
                config, choice.layers, f"{here}.{choice.name}", size, n_outputs, streams, dtype
            )
            supplied["layers"] = inner
            choice = choice.model_copy(update={"layers": tuple(inner_choices)})
        noisy = choice.factory.begin_step is not Layer.begin_step  # type: ignore[attr-defined]
        supplied["rng"] = streams["noise" if noisy else "init"]
        layer: Layer = _blaming(config, here, lambda c=choice, s=supplied: c.build(**s))  # type: ignore[misc]
        size = _blaming(config, here, lambda layer=layer, n=size: layer.output_size(n))  # type: ignore[misc]
        layers.append(layer)
        resolved.append(choice)
    return layers, resolved, size


def _model_outputs(model: Sequential, n_in: int) -> int:
    size = n_in
    for layer in model.layers:
        size = layer.output_size(size)
    return size


def _resolved(config: Config, model_choices: list[Choice], model: Sequential) -> Config:
    """The config with every automatic choice as the number that was chosen."""
    settings = config.train
    shards, threads = automatic_threads(model, settings.batch_size)
    shards = shards if settings.shards == "auto" else settings.shards
    threads = threads if settings.blas_threads == "auto" else settings.blas_threads
    workers = shards if settings.workers == "auto" else settings.workers
    chosen = {"shards": shards, "blas_threads": threads, "workers": workers}
    return config.model_copy(
        update={
            "model": tuple(model_choices),
            "train": settings.model_copy(update=chosen),
        }
    )


def _blaming(config: Config, path: str, make: Callable[[], Made]) -> Made:
    """Call `make`; a ValueError becomes the config's error at `path`, one key deeper if it can."""
    try:
        return make()
    except MinidlError:
        raise
    except ValueError as error:
        message = str(error)
        key = message.split(" ", 1)[0]
        deeper = f"{path}.{key}" if key.isidentifier() else path
        raise config.error(deeper, message) from error
