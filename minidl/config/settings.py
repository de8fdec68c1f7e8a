"""The sections of a config in reading order: what each key means, its type, range and default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, PrivateAttr, Strict, model_validator
from pydantic_core import PydanticCustomError

from minidl.config.choices import (
    Choice,
    Family,
    FilePath,
    Settings,
    Unknown,
    file_name,
    mark_unknown,
)
from minidl.config.document import Node, place
from minidl.data.augmentation import AUGMENTATIONS
from minidl.data.datasets import DATASETS, known_name
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.errors import ConfigError, MinidlError, ParameterError
from minidl.layers import LAYERS
from minidl.losses import LOSSES
from minidl.optimizers import OPTIMIZERS
from minidl.schedules import SCHEDULES

LAYER = Family("layer", LAYERS)
LOSS = Family("loss", LOSSES, default="softmax_cross_entropy")
OPTIMIZER = Family("optimizer", OPTIMIZERS, default="sgd")
SCHEDULE = Family("schedule", SCHEDULES, default="constant")
DATASET = Family("data set", DATASETS, trial=False)  # calling one reads or makes the data
PREPROCESSING = Family("preprocessing", PREPROCESSINGS, default="standard")
AUGMENTATION = Family("augmentation", AUGMENTATIONS)
FIGURES = tuple(dict.fromkeys(name for loss in LOSSES.values() for name in loss.figure_names()))
FAMILIES = (LAYER, LOSS, OPTIMIZER, SCHEDULE, DATASET, PREPROCESSING, AUGMENTATION)


def _share(value: float) -> float:
    if value == 0:
        return 0
    if value < 0 or (isinstance(value, float) and value >= 1):
        raise PydanticCustomError(
            "share", "expected 0, a fraction in (0, 1) or a whole number of rows"
        )
    return value


Share: TypeAlias = Annotated[int | float, AfterValidator(_share)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000)]
Parts: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0)]
Auto: TypeAlias = Literal["auto"]


class Data(Settings):
    """Where the rows come from, how they are split and what is done to them."""

    dataset: Annotated[Choice, DATASET]
    """The data set and its options; in a file they are keys of the section itself."""
    validation: Share = 0.1
    """The part of the rows that selects the best weights: 0, a fraction or a number of rows."""
    test: Share = 0.2
    """The part that is measured once, at the end; ignored where the data set has a test part."""
    split: Literal["stratified", "random", "last"] = "stratified"
    """How parts are drawn; stratified keeps the share of each class, last takes the last rows."""
    preprocessing: Annotated[Choice, PREPROCESSING] = Field(
        PREPROCESSING.default, validate_default=True
    )
    """Fitted on the training part, and kept with the model."""
    augmentation: Annotated[tuple[Annotated[Choice, AUGMENTATION], ...], Strict(False)] = ()
    """Random changes of the training rows, one after the other, drawn again in each epoch."""
    fallback: FilePath | None = None
    """The config to train instead when the data are not available; relative to this file."""

    @model_validator(mode="before")
    @classmethod
    def _gather_dataset(cls, data: object) -> object:
        """Move what is not a key of this section into `dataset`."""
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, Mapping) or isinstance(data.get("dataset"), Choice):
            return data
        own = [key for key in cls.model_fields if key != "dataset"]
        section = {key: data[key] for key in own if key in data}
        rest = {key: value for key, value in data.items() if key not in own}
        if "path" in rest:
            rest.setdefault("name", "file")
        name = rest.get("name")
        if isinstance(name, str):
            name = rest["name"] = known_name(name)
            if name in DATASET.registry:
                known = [*DATASET.model(name).model_fields, *own]
                return {**section, "dataset": mark_unknown(rest, known)}
        options = ["name"]
        if "name" in rest:  # an unknown one: what no data set takes is reported with it
            models = map(DATASET.model, DATASET.registry)
            options += {key for model in models for key in model.model_fields}
        stray = [key for key in rest if key not in options]  # in the order of the file
        unknown = dict.fromkeys(stray, Unknown([*own, *options]))
        return {**section, **unknown, "dataset": {"name": name}}


class Multipliers(Settings):
    """Factors of the learning rate, one for each group of parameters."""

    weights: NonNegative = 1.0
    biases: NonNegative = 1.0
    scales: NonNegative = 1.0


class EarlyStopping(Settings):
    """Stop when the validation figure has not improved for a while."""

    patience: Count = 10
    """Epochs without an improvement before training stops."""
    min_delta: NonNegative = 0.0
    """The smallest change of the figure that counts as an improvement."""


class CheckpointEvery(Settings):
    """How often a checkpoint is written: one of the three."""

    seconds: Positive | None = None
    steps: Count | None = None
    epochs: Count | None = None

    @model_validator(mode="after")
    def _one(self) -> CheckpointEvery:
        if sum(value is not None for _, value in self) != 1:
            raise PydanticCustomError("choice", "give one of seconds, steps and epochs")
        return self


class Train(Settings):
    """How the model is trained."""

    epochs: Count = 20
    batch_size: Count = 64
    """Rows in a step."""
    optimizer: Annotated[Choice, OPTIMIZER] = Field(OPTIMIZER.default, validate_default=True)
    schedule: Annotated[Choice, SCHEDULE] = Field(SCHEDULE.default, validate_default=True)
    """The learning rate over the run, as a factor of the optimizer's."""
    clip_grad_norm: Positive | None = None
    """The largest norm of the gradient; a longer one is scaled down to it."""
    clip_grad_value: Positive | None = None
    """Each entry of the gradient is clipped to [-value, value]."""
    max_norm: Positive | None = None
    """The largest norm of the vector of incoming weights of a unit."""
    learning_rate_multipliers: Multipliers = Multipliers()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the average of the weights, which is then what is evaluated and saved."""
    mixup: Positive | None = None
    """Alpha of the Beta distribution from which the mixing of rows is drawn."""
    early_stopping: EarlyStopping | None = None
    monitor: Literal[*FIGURES] = "loss"  # type: ignore[valid-type]
    """The validation figure that decides which weights are best: loss, or a metric of the loss."""
    dtype: Literal["float32", "float64"] = "float32"
    shards: Parts | Auto = "auto"
    """Parts of a batch whose gradients are added in a fixed tree; fixes the arithmetic of a run."""
    blas_threads: Parts | Auto = "auto"
    """Threads of a matrix product; fixes the arithmetic of a run."""
    checkpoint_every: CheckpointEvery = CheckpointEvery(seconds=30.0)

    @model_validator(mode="before")
    @classmethod
    def _without_workers(cls, data: object) -> object:
        """Leave out `workers`, which configs of earlier versions have: it changed no bit."""
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if key != "workers"}
        return data


class Evaluation(Settings):
    """How the trained model is measured on the test part, and predicts."""

    shifts: Annotated[int, Field(ge=0)] = 0
    """For images: outputs are means over shifts by up to this many pixels in y and x; 0: none."""


class Output(Settings):
    """Where the run folder is made, and what is written into it."""

    directory: Annotated[str, AfterValidator(file_name)] = "runs"
    """Holds NAME/TIME; relative to where the command is started."""
    report: bool = True
    """Whether report.html is written at the end of a run; needs matplotlib."""


class Config(Settings):
    """A whole config, valid and complete.

    `config.data.dataset`, each entry of `config.model`, `config.loss`, `config.train.optimizer`
    and so on are `Choice`s: a `name`, a dict of `options`, and `build(**supplied)`.
    """

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Names the run's folder; default: the name of the file."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes everything that is random in the run."""
    data: Data
    model: Annotated[tuple[Annotated[Choice, LAYER], ...], Strict(False)]
    """The layers from the input to the output."""
    loss: Annotated[Choice, LOSS] = Field(LOSS.default, validate_default=True)
    train: Train = Field({}, validate_default=True)
    evaluation: Evaluation = Evaluation()
    output: Output = Output()

    _document: Node | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and dict(self) == dict(other)

    @property
    def figures(self) -> tuple[str, ...]:
        """The validation figures by which a run can be judged."""
        names: tuple[str, ...] = self.loss.factory.figure_names()  # type: ignore[attr-defined]
        return names

    def error(self, path: str, message: str, *others: str) -> ConfigError:
        """The error for what turned out wrong later, with the place in the file of `path`.

        path: dotted, for example "model.0" or "data.n_samples"; the nearest key above it is
        located where the file leaves it to its default.
        others: settings that have a part in the error; overrides of them are named.
        """
        if self._document is None:
            return ConfigError(f"{path}: {message}")
        (node, found), *rest = (
            self._document.walk([int(step) if step.isdigit() else step for step in each.split(".")])
            for each in (path, *others)
        )
        where = place(node.where, node, *(other for other, steps in rest if steps))
        return ConfigError(": ".join(filter(None, (where, ".".join(found), message))))

    @contextmanager
    def located(self, path: str, *others: str) -> Iterator[None]:
        """Turn a ValueError into the error at `path`, or one key deeper where it names an option.

        path, others: as of `error`.
        """
        try:
            yield
        except MinidlError:  # also a TableError, which is a ValueError as well
            raise
        except ValueError as error:
            if isinstance(error, ParameterError):
                path = f"{path}.{error.parameter}"
            raise self.error(path, str(error), *others) from error

    def settled(self, shards: int | Auto, blas_threads: int | Auto) -> Config:
        """The config with these numbers in place of `auto`."""
        numbers = {"shards": shards, "blas_threads": blas_threads}
        chosen = {key: n for key, n in numbers.items() if getattr(self.train, key) == "auto"}
        return self.model_copy(update={"train": self.train.model_copy(update=chosen)})

    def conflicts(self) -> Iterator[ConfigError]:
        """Settings that are wrong together."""
        sized = [i for i, layer in enumerate(self.model) if "n_out" in layer.options]
        if not sized:
            yield self.error("model", "has no linear layer; end it with 'linear: auto'")
        last = [f"model.{i}" for i in sized[-1:]]
        for path, layer in _walk(self.model, "model"):
            if layer.options.get("n_out") == "auto" and path not in last:
                yield self.error(f"{path}.{layer.name}", "auto is for the last linear layer only")
        train = self.train
        if train.early_stopping is not None and self.data.validation == 0:
            reason = "needs a validation part to watch, and data.validation is 0"
            yield self.error("train.early_stopping", reason, "data.validation")
        if train.monitor not in self.figures:
            reason = f"{self.loss.name} gives {', '.join(self.figures)}; not {train.monitor}"
            yield self.error("train.monitor", reason, "loss")
        if train.schedule.options["warmup"] >= train.epochs:
            reason = f"warmup must be shorter than the {train.epochs} epochs of the run"
            yield self.error("train.schedule.warmup", reason, "train.epochs")
        if train.shards != "auto" and train.shards > train.batch_size:
            reason = f"at most one for each row of a batch, {train.batch_size}, got {train.shards}"
            yield self.error("train.shards", reason, "train.batch_size")


def _walk(layers: Sequence[Choice], path: str) -> Iterator[tuple[str, Choice]]:
    """Every layer with its key path, those within others too."""
    for i, layer in enumerate(layers):
        yield f"{path}.{i}", layer
        yield from _walk(layer.options.get("layers", ()), f"{path}.{i}.{layer.name}")
