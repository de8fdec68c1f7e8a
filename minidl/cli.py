"""The command line: parse arguments, call one room, print.

Exit codes: 0 done; 1 a check failed; 2 the config or an argument is wrong; 3 data is missing or
unreadable; 4 training diverged; 5 a checkpoint or model file is damaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from minidl._version import __version__
from minidl.config import Config, dump, json_schema, load_config
from minidl.errors import ConfigError, MinidlError
from minidl.experiment import Experiment, Run, build_or_fall_back
from minidl.run_folder import RunFolder
from minidl.training import Epoch

DEFAULT_FOLDER = "runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="minidl", description="Train multilayer perceptrons on a CPU."
    )
    parser.add_argument("--version", action="version", version=f"minidl {__version__}")
    parser.add_argument(
        "command", choices=sorted(COMMANDS), metavar="COMMAND", help=" | ".join(sorted(COMMANDS))
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see minidl COMMAND --help")
    parsed = parser.parse_args(arguments)
    try:
        return COMMANDS[parsed.command](parsed.arguments)
    except MinidlError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def train(arguments: Sequence[str]) -> int:
    """Train what a config describes; write the run's folder."""
    parser = _parser("train", "Train what a config describes, and write a run folder.")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME/TIME)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="build everything, run one batch and a gradient check, train nothing",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print a config that trains the same run, with all defaults",
    )
    parser.add_argument(
        "--print-schema", action="store_true", help="print the JSON Schema of a config"
    )
    parser.add_argument("--summary", action="store_true", help="print the table of layers")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    options = parser.parse_intermixed_args(arguments)
    if options.print_schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    config = _config(parser, options.arguments)
    if options.print_config:
        print(dump(config), end="")
        return 0
    experiment = build_or_fall_back(config, lambda text: print(text, file=sys.stderr))
    if options.summary:
        print(experiment.model.summary())
        return 0
    if options.check:
        raise NotImplementedError
    folder = RunFolder.create(config.output.directory, experiment.config.name, options.out)
    run = Run(experiment, folder)
    run.start()
    _train(run, quiet=options.quiet)
    results = run.finish()
    if not options.quiet:
        print(_verdict(results))
        print(f"run folder: {folder.path}")
    return 0


COMMANDS = {"train": train}


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"minidl {command}", description=description)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG | section.key=value",
        help="a YAML file, and settings that override what stands in it",
    )
    return parser


def _config(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Config:
    """The config of the one argument without a `=`, with the others as overrides."""
    paths = [argument for argument in arguments if "=" not in argument]
    if len(paths) != 1:
        raise ConfigError(f"{parser.prog}: give one config, got {len(paths)}: {' '.join(paths)}")
    return load_config(Path(paths[0]), [argument for argument in arguments if "=" in argument])


def _train(run: Run, *, quiet: bool) -> None:
    training = run.training
    total = training.epochs * training.steps_per_epoch
    on_terminal = sys.stderr.isatty() and not quiet
    with tqdm(total=total, disable=not on_terminal, unit="step", leave=False) as bar:
        for epoch in run.steps():
            bar.update()
            if epoch is not None and not quiet:
                with tqdm.external_write_mode():
                    print(_line(epoch, training.epochs), flush=True)


def _line(epoch: Epoch, epochs: int) -> str:
    parts = [f"epoch {epoch.epoch}/{epochs}", _figures("train", epoch.train)]
    if epoch.validation:
        parts.append(_figures("validation", epoch.validation))
    return "  ".join([*parts, f"{epoch.seconds:.2f} s"])


def _figures(part: str, figures: object) -> str:
    assert isinstance(figures, dict)
    return f"{part} " + " ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _verdict(results: dict[str, object]) -> str:
    """One line of what the test set said."""
    return " ".join(
        f"{k} {v:.4f}" for k, v in results.items() if isinstance(v, float) and k.startswith("test")
    )
