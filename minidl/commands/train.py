"""`minidl train` and `minidl gradcheck`: from a config to a run folder, or to a check of it."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minidl import terminal
from minidl.bar import ProgressBar
from minidl.commands.arguments import Parser, again, is_override
from minidl.config import dump, load_config, schema_text
from minidl.errors import CheckpointError, ConfigError
from minidl.progress import Epoch
from minidl.ranks import Ranks
from minidl.runs.experiment import Experiment, build_or_fall_back
from minidl.runs.folder import RunFolder
from minidl.runs.interrupts import signal_name, stop_with_standard_input
from minidl.runs.job import build_together, train_together
from minidl.runs.run import Run
from minidl.terminal import say, warn

LATEST = "latest"
FLAGS = {
    "--check": "build everything, run one batch and a gradient check, train nothing",
    "--print-config": "print a config that trains the same run, with all defaults",
    "--print-schema": "print the JSON Schema of a config",
    "--summary": "print the table of layers",
    "--quiet": "print nothing but errors",
    "--stop-with-stdin": argparse.SUPPRESS,
}
UNEVEN = 3  # times as many test rows in the largest class as in the smallest


def train(arguments: Sequence[str]) -> int:
    """Train what a config describes; write the run's folder. In an MPI job, on all its ranks."""
    return train_together(lambda ranks: _train_alone_or_lead(arguments, ranks))


def _train_alone_or_lead(arguments: Sequence[str], ranks: Ranks | None) -> int:
    parser = Parser("train", "Train what a config describes, and write a run folder.")
    parser.takes_config()
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME/TIME)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, or with the latest; CONFIG may be left out",
    )
    for flag, text in FLAGS.items():
        parser.add_argument(flag, action="store_true", help=text)
    options = parser.options(arguments)
    if options.stop_with_stdin:
        stop_with_standard_input()
    if options.print_schema:
        say(schema_text())
        return 0
    if options.resume is not None:
        return _resume(parser, options, ranks)
    config = load_config(*parser.config(options.arguments))
    if options.print_config:
        say(dump(config), end="")
        return 0
    experiment = build_together(None if options.check or options.summary else ranks, config)
    if options.summary:
        say(str(experiment.model.summary()))
    if options.check:
        return _check(experiment, quiet=options.quiet)
    if options.summary:
        return 0
    name = experiment.config.name
    with RunFolder.create(config.output.directory, name, options.out) as folder:
        return _train(Run(experiment, folder), quiet=options.quiet)


def gradcheck(arguments: Sequence[str]) -> int:
    """Compare the gradients of what a config describes with finite differences."""
    parser = Parser("gradcheck", "Compare the gradients of a config's model with differences.")
    parser.takes_config()
    config = load_config(*parser.config(parser.options(arguments).arguments))
    return _check(build_or_fall_back(config, warn), quiet=False)


def _check(experiment: Experiment, *, quiet: bool) -> int:
    report = experiment.check()
    if not quiet:
        say(str(report))
    if not report.passed:
        warn("the gradient check failed")
    return 0 if report.passed else 1


def _resume(parser: Parser, options: argparse.Namespace, ranks: Ranks | None) -> int:
    """Go on with a run, or say that there is nothing left to do."""
    if options.out is not None:
        raise ConfigError(f"{parser.prog}: --out is for a new run; --resume goes on in its folder")
    for flag in ("--check", "--print-config", "--summary"):
        if getattr(options, flag[2:].replace("-", "_")):
            raise ConfigError(
                f"{parser.prog}: {flag} trains nothing and --resume goes on training; "
                f"give {flag} the run's config.yaml instead"
            )
    config = None  # the run's own is meant, perhaps with overrides
    if not all(map(is_override, options.arguments)):
        config = load_config(*parser.config(options.arguments))
    path = Path(options.resume)
    if options.resume == LATEST:
        where = ("runs", None) if config is None else (config.output.directory, config.name)
        path = RunFolder.latest(*where)
    with RunFolder.open(path) as folder:
        if not options.arguments and folder.is_finished():
            return _nothing_left(folder)
        begun = folder.config.exists()
        if config is None and not begun:
            raise ConfigError(f"{path} holds no config.yaml yet: name the config to begin with")
        if config is None:
            config = load_config(folder.config, options.arguments)
        elif begun:
            former = load_config(folder.config).train
            config = config.settled(former.shards, former.blas_threads)
        run = Run(build_together(ranks, config), folder)
        note = (lambda text: None) if options.quiet else warn
        if not run.resume(note):
            note(f"{path} has no checkpoint yet: starting it over")
        elif run.training.finished and folder.is_finished():
            return _nothing_left(folder)
        return _train(run, quiet=options.quiet)


def _nothing_left(folder: RunFolder) -> int:
    say(f"the run in {folder.path} is finished; its model is {folder.model}")
    return 0


def _train(run: Run, *, quiet: bool) -> int:
    """Train to the end, or until a signal or a closed output stops the run."""
    go_on = f"go on with the run by\n  {again('train', '--resume', str(run.folder.path))}"
    results, unwritten, training = None, None, run.training
    bar = ProgressBar(
        total=training.epochs * training.steps_per_epoch,
        initial=training.progress["step"],
        disable=quiet or None,
        unit="steps",
    )
    try:
        with run, bar:
            for epoch in run.steps():
                if bar.update() or epoch is not None:
                    loss = run.loss_so_far() if epoch is None else epoch.train["loss"]
                    bar.set_description_str(f"loss {loss:.4f}", refresh=False)
                if epoch is None or quiet:
                    continue
                try:
                    monitor = training.best.monitor
                    say(epoch_line(epoch, training.epochs, terminal.width_of(sys.stdout), monitor))
                except terminal.OutputError as error:
                    unwritten = error
                    run.save()
                    break
            if training.finished:
                results = run.finish()
    except CheckpointError as error:
        if not run.folder.config.exists():  # nothing has begun
            raise
        raise CheckpointError(f"{error}\nthen {go_on}") from error
    if run.stopped_by is not None:
        done = f"after step {training.progress['step']}; {go_on}"
        if results is not None:
            done = f"after the last step; the run in {run.folder.path} is finished"
        warn(f"stopped by {signal_name(run.stopped_by)} {done}")
        return 128 + run.stopped_by
    if unwritten is not None:
        how = f"; {go_on}" if str(unwritten) and results is None else ""
        raise terminal.OutputError(f"{unwritten}{how}", unwritten.exit_code)
    assert results is not None
    if not quiet:
        say(terminal.wrapped(_verdict(results), terminal.width_of(sys.stdout)))
    if run.experiment.config.output.report:
        _write_report(run)
    if not quiet:
        say(f"run folder: {run.folder.path}")
    return 0


def _write_report(run: Run) -> None:
    """Write report.html, or say why it is not written: the run itself is finished."""
    try:
        from minidl.report.run import write_report  # scikit-learn and matplotlib load slowly

        write_report(run.folder, run.experiment)
    except Exception as error:
        warn(f"report.html is not written: {error}")


def epoch_line(epoch: Epoch, epochs: int, width: int | None, monitor: str = "loss") -> str:
    """One line of what an epoch gave: the longest that fits into `width` columns, if given."""
    short = f"{epoch.epoch}/{epochs}"
    train = f"train {terminal.figures_text(epoch.train, monitor)}"
    train_loss = f"train loss {epoch.train['loss']:.4f}"
    figures = terminal.figures_text(epoch.validation or epoch.train, monitor)
    validation = [f"validation {figures}"] if epoch.validation else []
    time = terminal.duration(epoch.seconds)
    lines = (
        [f"epoch {short}", train, *validation, time],
        [f"epoch {short}", train_loss, *validation, time],
        [f"epoch {short}", train_loss, *validation],
        [f"epoch {short}", *(validation or [train_loss])],
        [short, figures],
        [short, " ".join(figures.split()[:2])],
    )
    return terminal.fitting(lines, width)


def _verdict(results: Mapping[str, Any]) -> str:
    """One line of what the test set said; the balanced accuracy too where classes are uneven."""
    rows = [sum(row) for row in results.get("confusion_matrix", ())]  # of each true class
    uneven = bool(rows) and max(rows) > UNEVEN * min(filter(None, rows))
    shown = terminal.figures_text(results, "balanced_accuracy" if uneven else "loss", "test_")
    return f"test {shown}" if shown else "trained; no test part was set aside"
