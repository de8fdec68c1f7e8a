"""From a config to data, model, loss and optimizer; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.best import BestWeights, EarlyStopping
from minidl.config import Config, load_config
from minidl.data.augmentation import Mixup, ShiftedViews
from minidl.data.batches import Augment, Rows
from minidl.data.dataset import Dataset
from minidl.data.preprocessing import Preprocessing
from minidl.data.splits import Split, split
from minidl.errors import CheckpointError, DataError
from minidl.evaluation import predict_outputs
from minidl.gradcheck import GradientReport, check_gradients
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.predictor import Predictor, load
from minidl.ranks import Ranks
from minidl.runs import parts
from minidl.schedules import Schedule
from minidl.shipped import find_fallback
from minidl.training import Training

CHECKED_ROWS, CHECKED_ENTRIES = 16, 20  # of the data, and of each array of the model

PURPOSES = ("init", "split", "shuffle", "noise", "augmentation")


def random_streams(seed: int) -> dict[str, np.random.Generator]:
    """Return one generator for each purpose, all from one seed and independent of each other."""
    children = np.random.SeedSequence(seed).spawn(len(PURPOSES))
    return {
        purpose: np.random.default_rng(child)
        for purpose, child in zip(PURPOSES, children, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a config names, built and ready to train.

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
        settings, streams = config.train, random_streams(config.seed)
        with parts.located(config, "data"):
            dataset: Dataset = config.data.dataset.build()
            train, validation, test = split(
                dataset,
                validation=config.data.validation,
                test=config.data.test,
                method=config.data.split,
                rng=streams["split"],
            )
        loss_function: Loss = config.loss.build().fitted(train.y)
        n_outputs = parts.outputs_needed(config, dataset, loss_function)
        preprocessing = parts.fitted_preprocessing(config, dataset, train)
        parts.check_needed_memory(config, preprocessing.n_out, n_outputs, len(train))
        model = parts.built_model(
            config,
            dataset,
            preprocessing.n_out,
            n_outputs,
            init=streams["init"],
            noise=streams["noise"],
        )
        with parts.located(config, "loss", "data.name"):
            loss_function.check_targets(dataset.y, n_outputs)
        groups = model.parameter_groups(
            settings.learning_rate_multipliers.model_dump(), settings.max_norm
        )
        experiment = cls(
            config=parts.resolved(config, n_outputs, model, dataset, ranks),
            dataset=dataset,
            train=train,
            validation=validation,
            test=test,
            preprocessing=preprocessing,
            model=model,
            loss_function=loss_function,
            optimizer=settings.optimizer.build(
                groups=groups,
                clip_grad_norm=settings.clip_grad_norm,
                clip_grad_value=settings.clip_grad_value,
            ),
            schedule=settings.schedule.build(),
            augment=parts.augmentation(config, dataset, streams["augmentation"]),
            mix=parts.mixup(config, dataset, loss_function, streams["augmentation"]),
            views=parts.shifted_views(config, dataset),
            streams=streams,
            ranks=ranks,
        )
        with parts.located(config, "data"):
            experiment.predictor().check()  # now and not after the training
        return experiment

    def transform(self, X: Any) -> Any:
        """Raw rows as the model's inputs."""
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def outputs(self, X: Any) -> Array:
        """Return the model's outputs for raw rows, as a mean over shifts where there are some."""
        return predict_outputs(self.model, X, transform=self.transform, views=self.views)

    def training(self) -> Training:
        """Return a training of this experiment, at its start."""
        settings = self.config.train
        shards, threads, stopping = settings.shards, settings.blas_threads, None
        if (early := settings.early_stopping) is not None:
            stopping = EarlyStopping(early.patience, early.min_delta)
        assert isinstance(shards, int) and isinstance(threads, int)
        with parts.located(self.config, "train"):
            return Training(
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
            )

    def check(self) -> GradientReport:
        """Compare the gradients with differences on a few rows, and make one training step."""
        rows = slice(0, CHECKED_ROWS)
        x, labels = self.transform(self.train.X[rows]), self.train.y[rows]
        report = check_gradients(
            self.model, x, self.loss_function, labels, max_entries=CHECKED_ENTRIES
        )
        next(self.training().steps())
        return report

    def use_weights_of(self, path: Path) -> None:
        """Take the weights of a model file; CheckpointError if it is not of this config."""
        trained = load(path).model
        own = self.model
        if (own.params.shape, own.buffers.shape) != (trained.params.shape, trained.buffers.shape):
            raise CheckpointError(f"{path}: is not a model of this config")
        own.params[:], own.buffers[:] = trained.params, trained.buffers

    def predictor(self) -> Predictor:
        """Return the model with all that it needs to predict from raw features."""
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
    """Build the experiment, or that of `data.fallback` where its data are not available.

    The seed and the output section stay those of `config`.
    """
    try:
        experiment = Experiment.build(config, ranks)
        for note in experiment.dataset.notes:
            announce(note)
        return experiment
    except DataError as error:
        given = config.data.dataset.options.get("path") is not None
        if config.data.fallback is None or given:  # data given by a path are not replaced
            raise
        fallback = load_config(find_fallback(config.data.fallback))
        announce(
            f"{config.data.dataset.name} is not available: {error}\n"
            f"training {config.data.fallback} instead, with its own settings, on "
            f"{fallback.data.dataset.name}"
        )
        kept = {"seed": config.seed, "output": config.output}
        return Experiment.build(fallback.model_copy(update=kept), ranks)
