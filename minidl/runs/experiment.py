"""From a config to data, model, loss and optimizer; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minidl.best import BestWeights, EarlyStopping
from minidl.config import Config, load_config
from minidl.data.batches import Rows
from minidl.data.dataset import Dataset
from minidl.data.splits import split
from minidl.errors import CheckpointError, DataError
from minidl.evaluation import predict_outputs
from minidl.gradcheck import GradientReport, check_gradients
from minidl.kernels import Array
from minidl.losses import Loss
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


class Experiment:
    """Everything that a config names, built and ready to train.

    config: resolved, with the automatic choices as numbers.  train, validation, test: raw rows.
    Raises DataError or ConfigError for what is wrong.
    """

    def __init__(self, config: Config, ranks: Ranks | None = None) -> None:
        settings, streams = config.train, random_streams(config.seed)
        self.ranks = ranks
        with parts.located(config, "data"):
            self.dataset: Dataset = config.data.dataset.build()
            self.train, self.validation, self.test = split(
                self.dataset,
                validation=config.data.validation,
                test=config.data.test,
                method=config.data.split,
                rng=streams["split"],
            )
        self.loss_function: Loss = config.loss.build().fitted(self.train.y)
        n_outputs = parts.outputs_needed(config, self.dataset, self.loss_function)
        self.preprocessing = parts.fitted_preprocessing(config, self.dataset, self.train)
        n_in = self.preprocessing.n_out
        parts.check_needed_memory(config, n_in, n_outputs, len(self.train))
        self.model = parts.built_model(
            config, self.dataset, n_in, n_outputs, init=streams["init"], noise=streams["noise"]
        )
        with parts.located(config, "loss", "data.name"):
            self.loss_function.check_targets(self.dataset.y, n_outputs)
        self.optimizer: Optimizer = settings.optimizer.build(
            groups=self.model.parameter_groups(
                settings.learning_rate_multipliers.model_dump(), settings.max_norm
            ),
            clip_grad_norm=settings.clip_grad_norm,
            clip_grad_value=settings.clip_grad_value,
        )
        self.schedule: Schedule = settings.schedule.build()
        self.augment = parts.augmentation(config, self.dataset, streams["augmentation"])
        self.mix = parts.mixup(config, self.dataset, self.loss_function, streams["augmentation"])
        self.views = parts.shifted_views(config, self.dataset)
        self.shuffle = streams["shuffle"]
        self.config = parts.resolved(config, n_outputs, self.model, self.dataset, ranks)
        with parts.located(config, "data"):
            self.predictor().check()  # now and not after the training

    def transform(self, X: Any) -> Any:
        """Raw rows as the model's inputs."""
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def outputs(self, X: Any) -> Array:
        """Return the model's outputs for raw rows, as a mean over shifts where there are some."""
        return predict_outputs(self.model, X, transform=self.transform, views=self.views)

    def training(self) -> Training:
        """Return a training of this experiment, at its start."""
        settings, early = self.config.train, self.config.train.early_stopping
        assert settings.shards != "auto" and settings.blas_threads != "auto"  # of a resolved config
        best = BestWeights(
            monitor=settings.monitor,
            early_stopping=None if early is None else EarlyStopping(**early.model_dump()),
            ema=settings.ema,
        )
        with parts.located(self.config, "train"):
            return Training(
                self.model,
                self.loss_function,
                self.optimizer,
                Rows(self.train.X, self.train.y),
                None if self.validation is None else Rows(self.validation.X, self.validation.y),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                rng=self.shuffle,
                schedule=self.schedule,
                transform=self.transform,
                augment=self.augment,
                mix=self.mix,
                best=best,
                train_metrics=True,
                shards=settings.shards,
                blas_threads=settings.blas_threads,
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
        experiment = Experiment(config, ranks)
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
        return Experiment(fallback.model_copy(update=kept), ranks)
