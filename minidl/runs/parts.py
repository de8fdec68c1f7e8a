"""The parts of an experiment, each built from a config and its data; errors name the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minidl.blas import automatic_threads
from minidl.config import Config
from minidl.data.augmentation import ImageAugmentation, Mixup, ShiftedViews
from minidl.data.batches import Augment
from minidl.data.dataset import Dataset
from minidl.data.disk import DiskRows
from minidl.data.preprocessing.contract import Preprocessing
from minidl.data.splits import Split
from minidl.errors import MinidlError, ParameterError
from minidl.losses import Loss
from minidl.memory import check_memory
from minidl.model import Sequential, walk
from minidl.ranks import Ranks
from minidl.specs import SpecError, build_layers, weigh


@contextmanager
def located(config: Config, path: str, *others: str) -> Iterator[None]:
    """Turn a ValueError into the config's error at `path`.

    A ParameterError is located one key deeper, at the option that it names.
    others: settings that have a part in the error; overrides of them are named.
    """
    try:
        yield
    except MinidlError:  # also a TableError, which is a ValueError as well
        raise
    except ParameterError as error:
        raise config.error(f"{path}.{error.parameter}", str(error), *others) from error
    except ValueError as error:
        raise config.error(path, str(error), *others) from error


def fitted_preprocessing(config: Config, dataset: Dataset, train: Split) -> Preprocessing:
    """Return the preprocessing, fitted on the training rows."""
    preprocessing: Preprocessing = config.data.preprocessing.build(**dataset.meaning)
    if dataset.needs_encoding and not preprocessing.takes_missing:
        raise config.error(
            "data.preprocessing",
            f"{preprocessing.name} takes numbers only, but the table has categories or missing "
            "values; use table_features, smooth_clip, quantile or piecewise_linear",
            "data.name",
        )
    return preprocessing.fit(train.X)


def built_model(
    config: Config,
    dataset: Dataset,
    n_in: int,
    n_outputs: int,
    *,
    init: np.random.Generator,
    noise: np.random.Generator,
) -> Sequential:
    """Return the model of `n_in` inputs.  init, noise: draw the weights, and the noise of steps."""
    try:
        layers = build_layers(
            [choice.spec for choice in config.model],
            n_in,
            n_outputs,
            init=init,
            noise=noise,
            dtype=np.dtype(config.train.dtype),
        )
    except SpecError as error:
        with located(config, f"model.{error.place}"):
            raise error.cause from error
    with located(config, "model"):
        model = Sequential(layers)
    if (n_out := model.output_size(n_in)) != n_outputs:
        last = max(i for i, choice in enumerate(config.model) if "n_out" in choice.options)
        raise config.error(
            f"model.{last}",
            f"the model has {n_out} outputs, but {dataset.name} with "
            f"{config.loss.name} needs {n_outputs}; write 'linear: auto'",
            "data.name",
            "loss",
        )
    if config.train.batch_size == 1 and any(layer.mixes_rows for layer in walk(model.layers)):
        raise config.error(
            "train.batch_size",
            "a normalization over the batch needs at least 2 rows, got 1",
            "model",
        )
    return model


def augmentation(config: Config, dataset: Dataset, rng: np.random.Generator) -> Augment | None:
    """Return the random changes of the training rows, each by itself."""
    if not config.data.augmentation:
        return None
    stages = [choice.build() for choice in config.data.augmentation]
    return ImageAugmentation(stages, image_shape(config, dataset, "data.augmentation"), rng=rng)


def mixup(
    config: Config, dataset: Dataset, loss_function: Loss, rng: np.random.Generator
) -> Mixup | None:
    """Return the random mixing of the rows of a batch."""
    if config.train.mixup is None:
        return None
    if loss_function.task == "multilabel":
        raise config.error("train.mixup", f"does not go with {config.loss.name}", "loss")
    if not isinstance(dataset.X, np.ndarray | DiskRows):
        reason = f"needs dense rows; those of {dataset.name} are sparse"
        raise config.error("train.mixup", reason, "data.name")
    n_classes = dataset.n_classes if loss_function.task == "classification" else None
    return Mixup(config.train.mixup, n_classes, rng=rng)


def shifted_views(config: Config, dataset: Dataset) -> ShiftedViews | None:
    """Return what the outputs are averaged over when the model is measured and predicts."""
    if config.evaluation.shifts == 0:
        return None
    shape = image_shape(config, dataset, "evaluation.shifts")
    with located(config, "evaluation.shifts", "data.name"):
        return ShiftedViews(shape, config.evaluation.shifts)


def image_shape(config: Config, dataset: Dataset, path: str) -> tuple[int, int, int]:
    """Return the shape of the images that the setting at `path` needs."""
    if dataset.image_shape is None:
        raise config.error(path, f"the rows of {dataset.name} are no images", "data.name")
    return dataset.image_shape


def check_needed_memory(config: Config, n_in: int, n_outputs: int, n_rows: int) -> None:
    """Refuse a model that does not fit into memory with all that its training keeps."""
    settings = config.train
    averages = len(settings.optimizer.factory.average_names)  # type: ignore[attr-defined]
    shards = settings.shards if isinstance(settings.shards, int) else 1
    sums = shards.bit_length() + 1 if shards > 1 else 0  # of the gradients of shards
    # Weights, their best values and gradients; each layer keeps an output and a gradient of it.
    vectors = 2 + averages + (settings.ema is not None) + 1 + sums
    with located(config, "model", "train.batch_size"):
        parameters, numbers = weigh([choice.spec for choice in config.model], n_in, n_outputs)
        needed = parameters * vectors + 2 * numbers * min(settings.batch_size, n_rows)
        check_memory(
            needed * np.dtype(settings.dtype).itemsize,
            f"{parameters:.3g} parameters, their gradients and the optimizer's averages, and the "
            f"activations of a batch of {settings.batch_size} rows",
        )


def outputs_needed(config: Config, dataset: Dataset, loss_function: Loss) -> int:
    """Return how many outputs the loss function needs for this data set."""
    task, loss, name = loss_function.task, config.loss.name, dataset.name
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
    with located(config, "loss", "data.name"):
        return loss_function.n_outputs(dataset.y)


def resolved(
    config: Config, n_outputs: int, model: Sequential, dataset: Dataset, ranks: Ranks | None
) -> Config:
    """Return the config with its automatic choices made: training from it repeats the run."""
    settings = config.train
    shards, threads = 1, automatic_threads(model.params.size * settings.batch_size)
    if ranks is not None:
        shards, threads = ranks.size, max(1, threads // ranks.per_node)
    automatic = {"shards": shards, "blas_threads": threads}
    chosen = {key: n for key, n in automatic.items() if getattr(settings, key) == "auto"}
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
