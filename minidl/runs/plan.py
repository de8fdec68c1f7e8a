"""From the arguments of a sweep to its runs, all of them checked before any is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from minidl.config import Config, load_config
from minidl.config.document import all_or_errors, brief, refuse
from minidl.errors import ConfigError
from minidl.runs.comparison import SweepRun
from minidl.runs.experiment import Experiment
from minidl.runs.sweep import Sweep

# One thread each, so that a run has the same bits however many others run beside it.
ONE_THREAD = {"train.blas_threads": "1"}
MOST_RUNS = 10_000


def plan(path: Path, arguments: Sequence[str], *, n_seeds: int, by: str | None = None) -> Sweep:
    """Return the sweep of a config file with `key=v1,v2` arguments, all combinations checked.

    Each combination gets the config's seed and the n_seeds - 1 that follow it. A seed also draws
    the split, so that all settings are compared on the same splits. `by` is the loss or a metric of
    the loss; None stands for the figure that the config monitors.

    Raises ConfigError with all that is wrong in any combination, as a single run would say it, and
    DataError where the data are not available: `data.fallback` is not used.
    """
    values = _values(arguments)
    n_runs = math.prod(map(len, values.values())) * n_seeds
    if n_runs > MOST_RUNS:
        raise ConfigError(f"these are {n_runs} runs; a sweep has at most {MOST_RUNS}")
    combinations = [dict(zip(values, each, strict=True)) for each in product(*values.values())]

    def load(setting: dict[str, str]) -> Config:
        return load_config(
            path, [f"{key}={value}" for key, value in (setting | ONE_THREAD).items()]
        )

    configs = all_or_errors(load, combinations)
    by = _figure(by, configs)
    settings = []
    for setting, config in zip(combinations, all_or_errors(_resolved, configs), strict=True):
        shown = {key: setting[key] for key, options in values.items() if len(options) > 1}
        # One page for the sweep, in place of one for each run.
        output = config.output.model_copy(update={"report": False})
        seeds = range(config.seed, config.seed + n_seeds)
        runs = [config.model_copy(update={"seed": seed, "output": output}) for seed in seeds]
        settings.append([SweepRun(shown, run) for run in runs])
    return Sweep(configs[0], settings, by)


def split_values(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes.

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
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def _values(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, in the order of the arguments."""
    values: dict[str, list[str]] = {}
    errors = []
    for text in arguments:
        key, _, value = text.partition("=")
        key, options = key.strip(), split_values(value)
        where = f"override {brief(text)}"
        if key in values:
            errors.append(f"{where}: {key} is set twice")
        if key in ONE_THREAD:
            errors.append(f"{where}: each run of a sweep has one thread; use --jobs")
        if key == "seed" and len(options) > 1:
            errors.append(f"{where}: give the first seed, and how many by --seeds")
        if len(set(options)) < len(options):
            errors.append(f"{where}: a value is given twice")
        values[key] = options
    refuse(errors)
    return values


def _figure(by: str | None, configs: Sequence[Config]) -> str:
    """The figure by which settings are compared, checked to be one of all of them."""
    figures = [config.figures for config in configs]
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
    """The config with all automatic choices made, after everything that it names was built."""
    experiment = Experiment(config)
    if experiment.validation is None:
        raise config.error(
            "data.validation", "settings are chosen on validation data; set it, for example to 0.2"
        )
    experiment.training()  # checks what only the loop knows
    return experiment.config
