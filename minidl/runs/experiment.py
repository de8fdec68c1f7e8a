"""A config becomes data, model, loss and optimizer: all that a run trains; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minidl.best import BestWeights, EarlyStopping
from minidl.config import Config, load_config
from minidl.data.augmentation import ImageAugmentation, Mixup, ShiftedViews
from minidl.data.batches import Augment, Rows
from minidl.data.dataset import Dataset
from minidl.data.preprocessing import Preprocessing
from minidl.data.splits import Split, split
from minidl.errors import CheckpointError, ConfigError, DataError, MinidlError, ParameterError
from minidl.evaluation import predict_outputs
from minidl.gradcheck import GradientReport, check_gradients
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.memory import check_memory
from minidl.model import Sequential, walk
from minidl.optimizers import Optimizer
from minidl.parallel import automatic_threads
from minidl.predictor import Predictor, load
from minidl.ranks import Ranks
from minidl.schedules import Schedule
from minidl.shipped import find_fallback
from minidl.specs import SpecError, build_layers, weigh
from minidl.training import Training

CHECKED_ROWS, CHECKED_ENTRIES = 16, 20  # of the data, and of each array of the model

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
    loss_function: Loss
    optimizer: Optimizer
    schedule: Schedule
    augment: Augment | None
    mix: Mixup | None
    views: ShiftedViews | None
    streams: dict[str, np.random.Generator]
    ranks: Ranks | None = None

    @classmethod
    def build(cls, config: Config, ranks: Ranks | None = None) -> Experiment:
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
        loss_function: Loss = config.loss.build().fitted(train.y)
        n_outputs = _n_outputs(config, dataset, loss_function)
        preprocessing: Preprocessing = config.data.preprocessing.build(**dataset.meaning)
        if dataset.needs_encoding and not preprocessing.takes_missing:
            raise config.error(
                "data.preprocessing",
                f"{preprocessing.name} takes numbers only, but the table has categories or missing "
                "values; use smooth_clip, quantile or piecewise_linear",
            )
        preprocessing.fit(train.X)
        _check_memory(config, preprocessing.n_out, n_outputs, len(train))
        try:
            layers = build_layers(
                [choice.spec for choice in config.model],
                preprocessing.n_out,
                n_outputs,
                init=streams["init"],
                noise=streams["noise"],
                dtype=np.dtype(config.train.dtype),
            )
        except SpecError as error:
            raise _located(config, f"model.{error.place}", error.cause) from error
        model = _blaming(config, "model", lambda: Sequential(layers))
        if (n_out := model.output_size(preprocessing.n_out)) != n_outputs:
            last = max(i for i, choice in enumerate(config.model) if "n_out" in choice.options)
            raise config.error(
                f"model.{last}",
                f"the model has {n_out} outputs, but {dataset.name} with "
                f"{config.loss.name} needs {n_outputs}; write 'linear: auto'",
            )
        if config.train.batch_size == 1 and any(layer.mixes_rows for layer in walk(model.layers)):
            raise config.error(
                "train.batch_size", "a normalization over the batch needs at least 2 rows, got 1"
            )
        _blaming(config, "loss", lambda: loss_function.check_targets(dataset.y, n_outputs))
        settings = config.train
        groups = model.parameter_groups(
            settings.learning_rate_multipliers.model_dump(), settings.max_norm
        )
        augment, mix = _augmentation(config, dataset, loss_function, streams["augmentation"])
        optimizer: Optimizer = settings.optimizer.build(
            groups=groups,
            clip_grad_norm=settings.clip_grad_norm,
            clip_grad_value=settings.clip_grad_value,
        )
        experiment = cls(
            _resolved(config, n_outputs, model, dataset, ranks),
            dataset,
            train,
            validation,
            test,
            preprocessing,
            model,
            loss_function,
            optimizer,
            settings.schedule.build(),
            augment,
            mix,
            _views(config, dataset),
            streams,
            ranks,
        )
        _blaming(config, "data", experiment.predictor().check)  # rather than after the training
        return experiment

    def transform(self, X: Any) -> Any:
        """Raw rows as the model's inputs."""
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def outputs(self, X: Any) -> Array:
        """Return the model's outputs for raw rows, as they are measured and predicted with."""
        predict = predict_outputs if self.ranks is None else self.ranks.predict_outputs
        return predict(self.model, X, transform=self.transform, views=self.views)

    def training(self) -> Training:
        """Return the loop over this experiment, at its start."""
        settings = self.config.train
        shards, threads, stopping = settings.shards, settings.blas_threads, None
        if (early := settings.early_stopping) is not None:
            stopping = EarlyStopping(early.patience, early.min_delta)
        assert isinstance(shards, int) and isinstance(threads, int)
        return _blaming(
            self.config,
            "train",
            lambda: Training(
                self.model,
                self.loss_function,
                self.optimizer,
                Rows(self.train.X, self.train.y),
                None if self.validation is None else Rows(self.validation.X, self.validation.y),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                rng=self.streams["shuffle"],
                schedule=self.schedule,
                transform=self.transform,
                augment=self.augment,
                mix=self.mix,
                best=BestWeights(
                    monitor=settings.monitor, early_stopping=stopping, ema=settings.ema
                ),
                train_metrics=True,
                shards=shards,
                blas_threads=threads,
                ranks=self.ranks,
            ),
        )

    def check(self) -> GradientReport:
        """Compare the gradients with differences on a few rows, and make one training step."""
        rows = slice(0, CHECKED_ROWS)
        x, labels = self.transform(self.train.X[rows]), self.train.y[rows]
        most = CHECKED_ENTRIES
        report = check_gradients(self.model, x, self.loss_function, labels, max_entries=most)
        next(self.training().steps())
        return report

    def use_weights_of(self, path: Path) -> None:
        """Take the weights of a model file; CheckpointError if it is not of this config."""
        trained = load(path).model
        for own, found in (
            (self.model.params, trained.params),
            (self.model.buffers, trained.buffers),
        ):
            if own.shape != found.shape:
                raise CheckpointError(f"{path}: is not a model of this config")
            own[:] = found

    def predictor(self) -> Predictor:
        """Return the model with all that a prediction from raw features needs."""
        return Predictor(
            self.model,
            self.loss_function,
            self.preprocessing,
            self.dataset.n_features,
            self.dataset.classes,
            self.dataset.feature_names,
            self.views,
            schema=self.dataset.schema,
        )


def build_or_fall_back(
    config: Config, announce: Callable[[str], None], ranks: Ranks | None = None
) -> Experiment:
    """Build the experiment, or where its data cannot be had that of `data.fallback`.

    The seed and the output section stay those of `config`.
    """
    try:
        experiment = Experiment.build(config, ranks)
        for note in experiment.dataset.notes:
            announce(note)
        return experiment
    except DataError as error:
        given = config.data.dataset.options.get("path") is not None
        if config.data.fallback is None or given:  # what was asked for by its path is not replaced
            raise
        fallback = load_config(find_fallback(config.data.fallback))
        announce(
            f"{config.data.dataset.name} cannot be had: {error}\n"
            f"training {config.data.fallback} instead, with its own settings, on "
            f"{fallback.data.dataset.name}"
        )
        kept = {"seed": config.seed, "output": config.output}
        return Experiment.build(fallback.model_copy(update=kept), ranks)


def _augmentation(
    config: Config, dataset: Dataset, loss_function: Loss, rng: np.random.Generator
) -> tuple[Augment | None, Mixup | None]:
    """The random changes of the training rows, on their own and of each batch."""
    augment, mix = None, None
    if config.data.augmentation:
        if dataset.image_shape is None:
            raise config.error("data.augmentation", f"the rows of {dataset.name} are no images")
        stages = [choice.build() for choice in config.data.augmentation]
        augment = ImageAugmentation(stages, dataset.image_shape, rng=rng)
    if config.train.mixup is not None:
        if loss_function.task == "classification":
            n_classes = dataset.n_classes
        elif loss_function.task == "regression":
            n_classes = None
        else:
            raise config.error("train.mixup", f"does not go with {config.loss.name}")
        if not isinstance(dataset.X, np.ndarray):
            raise config.error("train.mixup", f"needs dense rows; those of {dataset.name} are not")
        mix = Mixup(config.train.mixup, n_classes, rng=rng)
    return augment, mix


def _check_memory(config: Config, n_in: int, n_outputs: int, n_rows: int) -> None:
    """Weigh the model with all that training keeps beside it, before any of it is taken."""
    settings = config.train
    if isinstance(settings.shards, int) and settings.shards > n_rows:
        raise config.error("train.shards", f"must be at most the {n_rows} training rows")
    parameters, numbers = weigh([choice.spec for choice in config.model], n_in, n_outputs)
    averages = len(settings.optimizer.factory.average_names)  # type: ignore[attr-defined]
    shards = settings.shards if isinstance(settings.shards, int) else 1
    sums = shards.bit_length() + 1 if shards > 1 else 0  # of the gradients of shards
    # Weights, their best values and gradients; each layer keeps an output and a gradient of it.
    vectors = 2 + averages + (settings.ema is not None) + 1 + sums
    needed = parameters * vectors + 2 * numbers * min(settings.batch_size, n_rows)
    _blaming(
        config,
        "model",
        lambda: check_memory(
            needed * np.dtype(settings.dtype).itemsize,
            f"{parameters:.3g} parameters, their gradients and the optimizer's averages, and the "
            f"activations of a batch of {settings.batch_size} rows",
        ),
    )


def _views(config: Config, dataset: Dataset) -> ShiftedViews | None:
    """What the outputs are averaged over when the model is measured and predicts."""
    pixels = config.evaluation.shifts
    if pixels == 0:
        return None
    if (shape := dataset.image_shape) is None:
        raise config.error("evaluation.shifts", f"the rows of {dataset.name} are no images")
    try:
        return ShiftedViews(shape, pixels)
    except ValueError as error:
        raise config.error("evaluation.shifts", str(error)) from error


def _n_outputs(config: Config, dataset: Dataset, loss_function: Loss) -> int:
    """How many outputs the loss function needs for this data set."""
    wants_labels = loss_function.task != "regression"
    if wants_labels != dataset.is_classification:
        kind = "a classification" if dataset.is_classification else "a regression"
        fitting = "softmax_cross_entropy" if dataset.is_classification else "mse"
        raise config.error(
            "loss", f"{config.loss.name} does not fit {dataset.name}, {kind}; {fitting} does"
        )
    several = dataset.y.ndim == 2 and dataset.is_classification
    if several and loss_function.task == "classification":
        raise config.error(
            "loss",
            f"{config.loss.name} is for one label a row, and those of {dataset.name} have several; "
            "use sigmoid_cross_entropy",
        )
    if loss_function.task == "multilabel" and not several and dataset.n_classes != 2:
        raise config.error(
            "loss", f"{config.loss.name} is for two classes, {dataset.name} has {dataset.n_classes}"
        )
    if loss_function.task == "classification":
        assert dataset.n_classes is not None
        return dataset.n_classes
    return loss_function.n_outputs(dataset.y)


def _resolved(
    config: Config, n_outputs: int, model: Sequential, dataset: Dataset, ranks: Ranks | None
) -> Config:
    """The config with everything that was chosen: training from it repeats the run."""
    settings = config.train
    shards, threads = automatic_threads(model, settings.batch_size)
    if ranks is not None:
        shards, threads = ranks.size, max(1, threads // ranks.per_node)
    shards = shards if settings.shards == "auto" else settings.shards
    threads = threads if settings.blas_threads == "auto" else settings.blas_threads
    chosen = {"shards": shards, "blas_threads": threads}
    source = config.data.dataset
    if dataset.path is not None:
        source = source.model_copy(update={"path": dataset.path})
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"dataset": source, "fallback": None}),
            "model": tuple(choice.with_outputs(n_outputs) for choice in config.model),
            "train": settings.model_copy(update=chosen),
        }
    )


def _blaming(config: Config, path: str, make: Callable[[], Made]) -> Made:
    """Call `make`; a ValueError becomes the config's error at `path`."""
    try:
        return make()
    except MinidlError:
        raise
    except ValueError as error:
        raise _located(config, path, error) from error


def _located(config: Config, path: str, error: ValueError) -> ConfigError:
    """The config's error at `path`, or at the option that a ParameterError names."""
    if isinstance(error, ParameterError):
        path = f"{path}.{error.parameter}"
    return config.error(path, str(error))
