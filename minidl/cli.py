"""The command line: parse arguments, call one room, print.

Exit codes: 0 done; 1 a check that was asked for failed; 2 the config or an argument is wrong; 3
data is missing or unreadable; 4 training diverged; 5 a checkpoint or model file is damaged or
cannot be written; 130 and 143 stopped by SIGINT or SIGTERM. A sweep has the largest of its runs'.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from minidl._version import __version__
from minidl.benchmark.cells import GRID
from minidl.benchmark.results import PARTS, benchmark, chosen_cells
from minidl.blas import usable_cores
from minidl.config import Config, dump, json_schema, load_config, settled
from minidl.errors import CheckpointError, ConfigError, MinidlError
from minidl.runs.experiment import Experiment, build_or_fall_back
from minidl.runs.folder import RunFolder
from minidl.runs.run import Run
from minidl.runs.sweep.comparison import in_words, table
from minidl.runs.sweep.planning import plan
from minidl.runs.sweep.sweeping import train_and_compare
from minidl.training import Epoch

LATEST = "latest"


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
    try:
        parsed = parser.parse_args(arguments)
        return COMMANDS[parsed.command](parsed.arguments)
    except MinidlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except MemoryError as error:
        print(f"not enough memory: {error or 'choose a smaller model or batch'}", file=sys.stderr)
        return ConfigError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # who read the output has left; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def train(arguments: Sequence[str]) -> int:
    """Train what a config describes; write the run's folder."""
    parser = _parser("train", "Train what a config describes, and write a run folder.")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME/TIME)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, or with the latest; CONFIG may be left out",
    )
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
    options = _options(parser, arguments)
    if options.print_schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if options.resume is not None:
        return _resume(parser, options)
    config = _config(parser, options.arguments)
    if options.print_config:
        print(dump(config), end="")
        return 0
    experiment = build_or_fall_back(config, _warn)
    if options.summary:
        print(experiment.model.summary())
    if options.check:
        return _check(experiment, quiet=options.quiet)
    if options.summary:
        return 0
    name = experiment.config.name
    with RunFolder.create(config.output.directory, name, options.out) as folder:
        with Run(experiment, folder) as run:
            return _train(run, quiet=options.quiet)


def gradcheck(arguments: Sequence[str]) -> int:
    """Compare the gradients of what a config describes with finite differences."""
    parser = _parser("gradcheck", "Compare every gradient of a config's model with differences.")
    options = _options(parser, arguments)
    return _check(build_or_fall_back(_config(parser, options.arguments), _warn), quiet=False)


def sweep(arguments: Sequence[str]) -> int:
    """Train every combination of some settings with several seeds; compare them."""
    parser = _parser(
        "sweep",
        "Train every combination of the settings `key=value,value` with several seeds, and compare "
        "their means on the VALIDATION data. Each run is a process with one thread and leaves a "
        "run folder; the same command with the same --out trains only what is not finished. A "
        "value may hold commas in brackets or quotes; a key with one value is set for all runs.",
        epilog="The test set chooses nothing: --test shows it for the setting that came first, and "
        "for no other. Exit code: 0 where every run finished, else the largest of the runs' own "
        "(4: one diverged); 130 and 143 stopped by a signal, with checkpoints.",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=_count, default=5, help="runs a setting (default: 5)"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        default=usable_cores(),
        help="runs at a time (default: the cores)",
    )
    parser.add_argument(
        "--by", metavar="FIGURE", help="loss or a metric; the best first (default: train.monitor)"
    )
    parser.add_argument("--out", metavar="DIR", help="default: runs/NAME-sweep/TIME")
    parser.add_argument(
        "--test", action="store_true", help="show the test figures of the first setting as well"
    )
    options = _options(parser, arguments)
    path, overrides = _path_and_overrides(parser, options.arguments)
    planned = plan(path, overrides, n_seeds=options.seeds, by=options.by)
    swept = train_and_compare(planned, options.out, jobs=options.jobs, announce=_warn)
    if swept.stopped_by is not None:
        out = [] if options.out is not None else ["--out", str(swept.path)]
        _warn(
            f"stopped by {signal.Signals(swept.stopped_by).name}; go on with the sweep by\n  "
            + _command("sweep", *arguments, *out)
        )
        return swept.exit_code
    print(table(swept.rows), end="")
    if options.test and swept.rows[0].test:
        print(f"test, of the first setting alone: {in_words(swept.rows[0].test)}")
    print(f"sweep folder: {swept.path}")
    return swept.exit_code


def bench(arguments: Sequence[str]) -> int:
    """Measure minidl next to the other libraries that are installed."""
    parser = argparse.ArgumentParser(
        prog="minidl bench",
        description="Measure minidl next to the other libraries that are installed "
        '(pip install "minidl[bench]"), with nothing else running on the machine.',
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="for the results")
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help="%(default)s")
    parser.add_argument("--cells", metavar="A,...", default=",".join(GRID), help="%(default)s")
    parser.add_argument("--contenders", metavar="NAME,...", help="by default all installed")
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    options = parser.parse_args(arguments)
    tables = benchmark(
        options.out,
        parts=options.only.split(","),
        cells=chosen_cells(options.cells.split(",")),
        contenders=None if options.contenders is None else options.contenders.split(","),
        repeats=options.repeats,
        announce=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(tables, end="")
    return 0


COMMANDS = {"train": train, "sweep": sweep, "gradcheck": gradcheck, "bench": bench}


def _parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"minidl {command}", description=description, epilog=epilog
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG | section.key=value",
        help="a YAML file, and settings that override what stands in it",
    )
    return parser


def _options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse options and other arguments in any order.

    Not with parse_intermixed_args, which turns a Ctrl-C into a traceback in Python 3.11.
    """
    options, rest = parser.parse_known_args(arguments)
    if wrong := [argument for argument in rest if argument.startswith("-") and argument != "--"]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    options.arguments += [argument for argument in rest if argument != "--"]
    return options


def _config(
    parser: argparse.ArgumentParser, arguments: Sequence[str], default: Path | None = None
) -> Config:
    """The config of the one argument without a `=`, with the others as overrides."""
    return load_config(*_path_and_overrides(parser, arguments, default))


def _path_and_overrides(
    parser: argparse.ArgumentParser, arguments: Sequence[str], default: Path | None = None
) -> tuple[Path, list[str]]:
    """The one argument without a `=`, and those with one."""
    paths = [Path(argument) for argument in arguments if "=" not in argument]
    if not paths and default is not None:
        paths = [default]
    if len(paths) != 1:
        given = f"got {len(paths)}: {', '.join(map(str, paths))}" if paths else "got none"
        raise ConfigError(f"{parser.prog}: give one config file, {given}")
    return paths[0], [argument for argument in arguments if "=" in argument]


def _count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def _check(experiment: Experiment, *, quiet: bool) -> int:
    report = experiment.check()
    if not quiet:
        print(report)
    if not report.passed:
        print("the gradient check failed", file=sys.stderr)
    return 0 if report.passed else 1


def _resume(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Go on with a run, or say that there is nothing left to do."""
    if options.out is not None:
        raise ConfigError(f"{parser.prog}: --out is for a new run; --resume goes on in its folder")
    for flag in ("check", "print_config", "summary"):
        if getattr(options, flag):
            option = f"--{flag.replace('_', '-')}"
            raise ConfigError(
                f"{parser.prog}: {option} trains nothing and --resume goes on training; "
                f"give {option} the run's config.yaml instead"
            )
    given = [argument for argument in options.arguments if "=" not in argument]
    path = Path(options.resume)
    if options.resume == LATEST:
        config = _config(parser, options.arguments) if given else None
        where = ("runs", None) if config is None else (config.output.directory, config.name)
        path = RunFolder.latest(*where)
    with RunFolder.open(path) as folder:
        if not options.arguments and folder.status().get("status") == "finished":
            return _nothing_left(folder)
        if not given and not folder.config.exists():
            raise ConfigError(f"{path} holds no config.yaml yet: name the config to begin with")
        if given:
            config = _config(parser, options.arguments)
            if folder.config.exists():
                config = settled(config, load_config(folder.config))
            experiment = build_or_fall_back(config, _warn)
        else:
            experiment = Experiment.build(_config(parser, options.arguments, folder.config))
        with Run(experiment, folder) as run:
            if not run.resume(_warn):
                _warn(f"{path} has no checkpoint yet: starting it over")
            elif run.already_finished:
                return _nothing_left(folder)
            return _train(run, quiet=options.quiet)


def _nothing_left(folder: RunFolder) -> int:
    print(f"the run in {folder.path} is finished; its model is {folder.model}")
    return 0


def _train(run: Run, *, quiet: bool) -> int:
    training, begun = run.training, run.training.progress["step"]
    go_on = _command("train", "--resume", str(run.folder.path))
    bar = tqdm(
        total=training.epochs * training.steps_per_epoch,
        initial=begun,
        disable=quiet or not sys.stderr.isatty(),
        unit="step",
        leave=False,
    )
    try:
        with bar:
            for epoch in run.steps():
                bar.update()
                if epoch is not None and not quiet:
                    with tqdm.external_write_mode():
                        print(_line(epoch, training.epochs), flush=True)
        if run.stopped_by is None:
            results = run.finish()
    except CheckpointError as error:
        if not run.folder.config.exists():  # nothing has begun
            raise
        raise CheckpointError(f"{error}\nthen go on with the run by\n  {go_on}") from error
    if run.stopped_by is not None:
        _warn(
            f"stopped by {signal.Signals(run.stopped_by).name} after step "
            f"{training.progress['step']}; go on with the run by\n  {go_on}"
        )
        return 128 + run.stopped_by
    if not quiet:
        print(_verdict(results))
        print(f"run folder: {run.folder.path}")
    return 0


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _command(command: str, *arguments: str) -> str:
    """A command with these arguments, started like this one, to be copied into the same shell."""
    program = sys.argv[0]
    if Path(program).suffix == ".py":
        python = Path(sys.executable)
        found = shutil.which(python.name)
        # By folder: the Pythons of several virtual environments are links to one file.
        known = found is not None and Path(found).parent.samefile(python.parent)
        start = [python.name if known else str(python), program]
    else:
        known = shutil.which(Path(program).name) == os.path.abspath(program)
        start = [Path(program).name if known else program, command]
    return shlex.join([*start, *arguments])


def _line(epoch: Epoch, epochs: int) -> str:
    parts = [f"epoch {epoch.epoch}/{epochs}", _figures("train", epoch.train)]
    if epoch.validation:
        parts.append(_figures("validation", epoch.validation))
    return "  ".join([*parts, f"{epoch.seconds:.2f} s"])


def _figures(part: str, figures: Mapping[str, float]) -> str:
    return f"{part} {in_words(figures)}"


def _verdict(results: Mapping[str, object]) -> str:
    """One line of what the test set said."""
    figures = {
        name.removeprefix("test_"): value
        for name, value in results.items()
        if isinstance(value, float) and name.startswith("test_")
    }
    return _figures("test", figures) if figures else "trained; no test part was set aside"
