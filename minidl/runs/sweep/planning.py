"""From the arguments of a sweep to its runs, every one of them checked before any is trained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from minidl.config import Config, load_config
from minidl.config.document import brief, fail
from minidl.config.settings import comparable_figures
from minidl.errors import ConfigError
from minidl.runs.experiment import Experiment

# One thread each, so that a run has the same bits however many others run beside it.
ONE_THREAD = {"train.blas_threads": "1"}
LONGEST_NAME = 120
OPENING, CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Setting:
    """One combination of values.

    values: those of the keys that vary, as they were typed.  configs: one for each seed, resolved:
    training from it is the run.
    """

    values: Mapping[str, str]
    configs: tuple[Config, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    title: its setting and seed, for people.  folder: the name of its folder.
    """

    title: str
    folder: str
    config: Config


@dataclass(frozen=True)
class Sweep:
    """All that is to be trained and compared.

    name, directory: those of the config.  by: the validation figure that the settings are put in
    order by.
    """

    name: str
    directory: str
    by: str
    settings: tuple[Setting, ...]

    @property
    def runs(self) -> list[PlannedRun]:
        """Every setting with the first seed, then with the next: so all are soon compared."""
        each = [self.runs_of(setting) for setting in self.settings]
        return [run for same_seed in zip(*each, strict=True) for run in same_seed]

    def runs_of(self, setting: Setting) -> list[PlannedRun]:
        """The runs of one setting, in the order of their seeds."""
        return [planned_run(setting, config) for config in setting.configs]


def plan(path: Path, arguments: Sequence[str], *, n_seeds: int, by: str | None = None) -> Sweep:
    """Return the sweep of a config file with `key=v1,v2` arguments, all combinations checked.

    Each combination gets the config's seed and the n_seeds - 1 that follow it; as a seed also draws
    the split, all settings are compared on the same splits.  `by` is the loss or a metric of the
    loss function; None stands for the figure that the config monitors.

    Raises ConfigError with all that is wrong in any combination, as a single run would say it, and
    DataError where the data cannot be had: another data set, as `data.fallback` names one, is not
    what was to be compared.
    """
    values = _values(arguments)
    varied = [key for key, options in values.items() if len(options) > 1]
    configs: list[tuple[dict[str, str], Config]] = []
    errors: list[ConfigError] = []
    for combination in product(*values.values()):
        setting = dict(zip(values, combination, strict=True))
        overrides = [f"{key}={value}" for key, value in {**setting, **ONE_THREAD}.items()]
        try:
            config = load_config(path, overrides)
            configs.append(({key: setting[key] for key in varied}, config))
        except ConfigError as error:
            errors.append(error)
    _raise_all(errors)
    by = _order(by, [config for _, config in configs])
    settings = []
    for setting, config in configs:
        try:
            resolved = _resolved(config)
        except ConfigError as error:
            errors.append(error)
            continue
        seeds = range(config.seed, config.seed + n_seeds)
        of_seeds = tuple(resolved.model_copy(update={"seed": seed}) for seed in seeds)
        settings.append(Setting(setting, of_seeds))
    _raise_all(errors)
    first = configs[0][1]
    return Sweep(first.name, first.output.directory, by, tuple(settings))


def split_values(text: str) -> list[str]:
    """The values between the commas that stand in no brackets and no quotes.

    >>> split_values("{name: sgd, learning_rate: 0.1}, adam")
    ['{name: sgd, learning_rate: 0.1}', 'adam']
    """
    values, quote, depth = [""], "", 0
    for character in text:
        begins = not values[-1].strip() or values[-1].rstrip()[-1] in "[{,:"
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and begins:  # within a word it is an apostrophe
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def planned_run(setting: Setting, config: Config) -> PlannedRun:
    """The run of a setting with one of its configs.

    The folder's name holds letters, digits, '.', '_' and '-' only, so that its path is taken for no
    override, and depends on no other setting: a sweep of more values finds the runs of before.
    """
    pairs = setting.values.items()
    title = " ".join([*(f"{key}={value}" for key, value in pairs), f"seed={config.seed}"])
    text = "_".join(f"{key}-{value}" for key, value in pairs)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:LONGEST_NAME]
    if name != text:  # another text may give the same
        name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return PlannedRun(title, "_".join(filter(None, [name, f"seed-{config.seed}"])), config)


def _values(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, in the order of the arguments."""
    values: dict[str, list[str]] = {}
    errors = []
    for text in arguments:
        key, _, value = text.partition("=")
        key, options = key.strip(), split_values(value)
        where = f"override {brief(text)}"
        if key in values:
            errors.append(f"{where}: {key} stands here twice")
        if key in ONE_THREAD:
            errors.append(f"{where}: each run of a sweep has one thread; use --jobs")
        if key == "seed" and len(options) > 1:
            errors.append(f"{where}: give the first seed, and how many by --seeds")
        if len(set(options)) < len(options):
            errors.append(f"{where}: a value stands here twice")
        values[key] = options
    if errors:
        raise fail(errors)
    return values


def _order(by: str | None, configs: Sequence[Config]) -> str:
    """The figure that puts the settings in order, checked to be one that can be compared."""
    figures = [comparable_figures(config.loss) for config in configs]
    common = [figure for figure in figures[0] if all(figure in others for others in figures)]
    if by is not None and by not in common:
        raise ConfigError(f"--by must be one of {', '.join(common)}, got {brief(by)}")
    metrics = " or ".join(figure for figure in common if figure != "loss")
    monitored = {config.train.monitor for config in configs}
    if by is None and len(monitored) > 1:
        raise ConfigError(f"the settings differ in train.monitor; put them in order --by {metrics}")
    by = by or monitored.pop()
    if by == "loss" and any(config.loss != configs[0].loss for config in configs):
        raise ConfigError(
            "the settings differ in the loss, so that its values cannot be compared; put them in "
            f"order --by {metrics}"
        )
    return by


def _resolved(config: Config) -> Config:
    """The config with all automatic choices made, once everything that it names has been built."""
    experiment = Experiment.build(config)
    if experiment.validation is None:
        raise config.error(
            "data.validation", "settings are chosen on validation data; set it, for example to 0.2"
        )
    experiment.training()  # checks what only the loop knows
    return experiment.config


def _raise_all(errors: Sequence[ConfigError]) -> None:
    """Raise what is wrong, said once however many combinations it is wrong in."""
    if errors:
        raise fail(list(dict.fromkeys(line for e in errors for line in str(e).splitlines())))
