"""From a config to data, model, loss and optimizer; nothing is written."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from minidl import kernels
from minidl.best import EarlyStopping
from minidl.blas import automatic_threads
from minidl.config import Config, load_config
from minidl.data.augmentation import ImageAugmentation, Mixup, ShiftedViews
from minidl.data.dataset import Dataset
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.scaling import Preprocessing
from minidl.data.splits import split
from minidl.errors import CheckpointError, DataError
from minidl.evaluation import predict_outputs
from minidl.gradcheck import GradientReport, check_gradients
from minidl.kernels import Array
from minidl.losses import Loss
from minidl.memory import check_memory
from minidl.model import Sequential, walk
from minidl.optimizers import Optimizer
from minidl.predictor import Predictor, load
from minidl.ranks import Ranks
from minidl.schedules import Schedule
from minidl.shipped import find_fallback
from minidl.specs import SpecError, build_layers, weigh
from minidl.training import Training

CHECKED_ROWS, CHECKED_ENTRIES = 16, 20  # of the data, and of each array of the model

# Options of a table that the model file keeps, so that other files are read in the same way.
KEPT_WITH_MODEL = ("target", "delimiter", "decimal", "encoding", "header", "missing", "drop")

PURPOSES = ("init", "split", "shuffle", "noise", "augmentation")


def random_streams(seed: int) -> dict[str, np.random.Generator]:
    """Return one generator for each purpose, all from one seed and independent of each other."""
    children = np.random.SeedSequence(seed).spawn(len(PURPOSES))
    return dict(zip(PURPOSES, map(np.random.default_rng, children), strict=True))


class Experiment:
    """Everything that a config names, built and ready to train.

    config: resolved, with the automatic choices as numbers.  train, validation, test: raw rows.
    Raises DataError or ConfigError for what is wrong.
    """

    def __init__(self, config: Config, ranks: Ranks | None = None) -> None:
        self.config, self.ranks = config, ranks
        settings, streams = config.train, random_streams(config.seed)
        with config.located("data"):
            self.dataset: Dataset = config.data.dataset.build()
            self.train, self.validation, self.test = split(
                self.dataset,
                validation=config.data.validation,
                test=config.data.test,
                method=config.data.split,
                rng=streams["split"],
            )
        self.loss_function: Loss = config.loss.build().fitted(self.train.y)
        n_outputs = self._n_outputs()
        self.preprocessing = self._fitted_preprocessing()
        self._check_memory(n_outputs)
        self.model = self._built_model(n_outputs, streams["init"], streams["noise"])
        with config.located("loss", "data.name"):
            self.loss_function.check_targets(self.dataset.y, n_outputs)
        self._check_size_of_targets()
        self.optimizer: Optimizer = settings.optimizer.build(
            groups=self.model.parameter_groups(
                settings.learning_rate_multipliers.model_dump(), settings.max_norm
            ),
            clip_grad_norm=settings.clip_grad_norm,
            clip_grad_value=settings.clip_grad_value,
        )
        self.schedule: Schedule = settings.schedule.build()
        self.augment, self.views = None, None
        if config.data.augmentation:
            stages = [choice.build() for choice in config.data.augmentation]
            shape = self._image_shape("data.augmentation")
            self.augment = ImageAugmentation(stages, shape, rng=streams["augmentation"])
        self.mix = self._mixup(streams["augmentation"])
        if config.evaluation.shifts:
            shape = self._image_shape("evaluation.shifts")
            with config.located("evaluation.shifts", "data.name"):
                self.views = ShiftedViews(shape, config.evaluation.shifts)
        self.shuffle = streams["shuffle"]
        self.config = self._resolved(n_outputs)
        with config.located("data"):
            self.predictor().check()  # now and not after the training

    def transform(self, X: Any) -> Any:
        """Raw rows as the model's inputs."""
        return self.preprocessing.transform(X, dtype=self.model.dtype)

    def outputs(self, X: Any) -> Array:
        """Return the model's outputs for raw rows, as a mean over shifts where there are some."""
        return predict_outputs(self.model, X, transform=self.transform, views=self.views)

    def threads(self) -> AbstractContextManager[None]:
        """Return a block with the threads of the training: the last bits depend on their number."""
        threads = self.config.train.blas_threads
        assert threads != "auto"  # of a resolved config
        return kernels.threads(threads)

    def training(self) -> Training:
        """Return a training of this experiment, at its start."""
        settings, early = self.config.train, self.config.train.early_stopping
        assert settings.shards != "auto" and settings.blas_threads != "auto"  # of a resolved config
        with self.config.located("train"):
            return Training(
                self.model,
                self.loss_function,
                self.optimizer,
                self.train,
                self.validation,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                rng=self.shuffle,
                schedule=self.schedule,
                transform=self.transform,
                augment=self.augment,
                mix=self.mix,
                monitor=settings.monitor,
                early_stopping=None if early is None else EarlyStopping(**early.model_dump()),
                ema=settings.ema,
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
        options = self.config.data.dataset.options
        data = {key: options[key] for key in KEPT_WITH_MODEL if options.get(key) is not None}
        return Predictor(
            self.model,
            self.loss_function,
            self.preprocessing,
            self.dataset.n_features,
            self.dataset.classes,
            self.dataset.feature_names,
            self.views,
            {"data": data},
            schema=self.dataset.schema,
        )

    def _n_outputs(self) -> int:
        """How many outputs the loss function needs for this data set."""
        config, dataset = self.config, self.dataset
        task, loss, name = self.loss_function.task, config.loss.name, dataset.name
        several = dataset.y.ndim == 2 and dataset.is_classification
        wrong = ""
        if (task != "regression") != dataset.is_classification:
            kind = "a classification" if dataset.is_classification else "a regression"
            fitting = "softmax_cross_entropy" if dataset.is_classification else "mse"
            wrong = f"{loss} does not fit {name}, {kind}; {fitting} does"
        elif task == "classification" and several:
            wrong = (
                f"{loss} is for one label a row, and those of {name} have several; "
                "use sigmoid_cross_entropy"
            )
        elif task == "multilabel" and not several and dataset.n_classes != 2:
            wrong = f"{loss} is for two classes, {name} has {dataset.n_classes}"
        if wrong:
            raise config.error("loss", wrong, "data.name")
        if task == "classification":
            assert dataset.n_classes is not None
            return dataset.n_classes
        with config.located("loss", "data.name"):
            return self.loss_function.n_outputs(dataset.y)

    def _fitted_preprocessing(self) -> Preprocessing:
        config, dataset = self.config, self.dataset
        preprocessing: Preprocessing = config.data.preprocessing.build(schema=dataset.schema)
        if dataset.needs_encoding and not preprocessing.takes_missing:
            raise config.error(
                "data.preprocessing",
                f"{preprocessing.name} takes numbers only, but the table has categories or missing "
                "values; use table_features, smooth_clip, quantile or piecewise_linear",
                "data.name",
            )
        return preprocessing.fit(self.train.X)

    def _check_size_of_targets(self) -> None:
        """Refuse targets near the end of what the dtype holds: predictions would be infinite."""
        if self.loss_function.task != "regression":
            return
        dtype, largest = self.config.train.dtype, float(np.abs(self.dataset.y).max())
        if largest > float(np.finfo(dtype).max) / 100:
            advice = "divide the target" + ", or set float64" * (dtype == "float32")
            raise self.config.error(
                "train.dtype",
                f"dtype {dtype} is too small for the target, which holds {largest:.3g}; {advice}",
                "data.name",
            )

    def _check_memory(self, n_outputs: int) -> None:
        """Refuse a model that does not fit into memory with all that its training keeps."""
        settings, specs = self.config.train, [choice.spec for choice in self.config.model]
        averages = len(settings.optimizer.factory.average_names)  # type: ignore[attr-defined]
        shards = settings.shards if isinstance(settings.shards, int) else 1
        sums = shards.bit_length() + 1 if shards > 1 else 0  # of the gradients of shards
        # Weights, their best values and gradients; each layer keeps an output and a gradient of it.
        vectors = 2 + averages + (settings.ema is not None) + 1 + sums
        with self.config.located("model", "train.batch_size"):
            parameters, numbers = weigh(specs, self.preprocessing.n_out, n_outputs)
            needed = parameters * vectors
            needed += 2 * numbers * min(settings.batch_size, len(self.train.y))
            check_memory(
                needed * np.dtype(settings.dtype).itemsize,
                f"{parameters:.3g} parameters, their gradients and the optimizer's averages, and "
                f"the activations of a batch of {settings.batch_size} rows",
            )

    def _built_model(
        self, n_outputs: int, init: np.random.Generator, noise: np.random.Generator
    ) -> Sequential:
        config, n_in = self.config, self.preprocessing.n_out
        specs, dtype = [choice.spec for choice in config.model], np.dtype(config.train.dtype)
        try:
            layers = build_layers(specs, n_in, n_outputs, init=init, noise=noise, dtype=dtype)
        except SpecError as error:
            with config.located(f"model.{error.place}"):
                raise error.cause from error
        with config.located("model"):
            model = Sequential(layers)
        if (n_out := model.output_size(n_in)) != n_outputs:
            last = max(i for i, choice in enumerate(config.model) if "n_out" in choice.options)
            raise config.error(
                f"model.{last}",
                f"the model has {n_out} outputs, but {self.dataset.name} with "
                f"{config.loss.name} needs {n_outputs}; write 'linear: auto'",
                "data.name",
                "loss",
            )
        if config.train.batch_size == 1 and any(layer.mixes_rows for layer in walk(model.layers)):
            reason = "a normalization over the batch needs at least 2 rows, got 1"
            raise config.error("train.batch_size", reason, "model")
        return model

    def _mixup(self, rng: np.random.Generator) -> Mixup | None:
        config, dataset, task = self.config, self.dataset, self.loss_function.task
        if config.train.mixup is None:
            return None
        if task == "multilabel":
            raise config.error("train.mixup", f"does not go with {config.loss.name}", "loss")
        if not isinstance(dataset.X, np.ndarray | DiskRows):
            reason = f"needs dense rows; those of {dataset.name} are sparse"
            raise config.error("train.mixup", reason, "data.name")
        return Mixup(config.train.mixup, dataset.n_classes, rng=rng)

    def _image_shape(self, path: str) -> tuple[int, int, int]:
        """The shape of the images that the setting at `path` needs."""
        if self.dataset.image_shape is None:
            reason = f"the rows of {self.dataset.name} are no images"
            raise self.config.error(path, reason, "data.name")
        return self.dataset.image_shape

    def _resolved(self, n_outputs: int) -> Config:
        """The config with its automatic choices made: training from it repeats the run."""
        data, settings = self.config.data, self.config.train
        shards, threads = 1, automatic_threads(self.model.params.size * settings.batch_size)
        if self.ranks is not None:
            shards, threads = self.ranks.size, max(1, threads // self.ranks.per_node)
        source, layers = data.dataset, list(self.config.model)
        if self.dataset.path is not None:
            source = source.model_copy(update={"path": self.dataset.path})
        for i, layer in enumerate(layers):
            if layer.options.get("n_out") == "auto":  # the last linear layer
                layers[i] = layer.model_copy(update={"n_out": n_outputs})
        data = data.model_copy(update={"dataset": source, "fallback": None})
        resolved = self.config.model_copy(update={"data": data, "model": tuple(layers)})
        return resolved.settled(shards, threads)


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
