"""A run on the ranks of an MPI job: rank 0 runs it and writes its folder, the others follow.

Rank 0 sends the config. All ranks build the experiment from it and compare what they have. Rank 0
sends the state to begin with, and then all make the same steps. An error on one rank ends all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidl.config import Config, dump, parse
from minidl.data.dataset import fingerprint
from minidl.errors import ConfigError, DivergenceError, MinidlError
from minidl.ranks import Ranks
from minidl.runs import machine
from minidl.runs.experiment import Experiment, build_or_fall_back
from minidl.runs.interrupts import Interrupts
from minidl.terminal import warn

# On what the bits of a run depend, beside its config and data.
COMPARED = ("minidl", "numpy", "blas", "blas_core", "kernels", "products_on", "processor")


def lead(ranks: Ranks, command: Callable[[], int]) -> int:
    """Run a command on rank 0, which may train on all ranks; return its exit code."""
    try:
        code = command()
    except DivergenceError:  # in the same step on all ranks
        raise
    except MinidlError as error:
        if ranks.phase == "training":
            warn(str(error))
            ranks.abort(error.exit_code)
        dismiss(ranks)
        raise
    except BaseException as error:
        ranks.abort_by(error)
    dismiss(ranks)
    return code


def dismiss(ranks: Ranks) -> None:
    """Let the other ranks end, if they wait for what rank 0 sends."""
    if ranks.phase == "waiting":
        ranks.share(None)
        ranks.phase = "ended"


def follow(ranks: Ranks) -> int:
    """Do the part of a rank other than 0; return its exit code."""
    try:
        text = ranks.share()
        if text is None:
            return 0
        with Interrupts() as interrupts:
            ranks.asks_to_stop = lambda: interrupts.received or 0
            experiment = build_together(ranks, parse(text, "config of rank 0"))
            state = ranks.start()
            if state is not None:  # the steps of rank 0's run, without its folder
                training = experiment.training()
                training.restore(state)
                for _ in training.steps():
                    if ranks.stop:
                        break
        return 0
    except MinidlError as error:  # rank 0 says it, unless only this rank knows of it
        if ranks.phase == "training" and not isinstance(error, DivergenceError):
            warn(f"rank {ranks.rank}: {error}")
            ranks.abort(error.exit_code)
        return error.exit_code
    except BaseException as error:
        ranks.abort_by(error)


def build_together(ranks: Ranks, config: Config) -> Experiment:
    """Build the experiment on all ranks; raise the error of any of them, or a difference."""
    if ranks.rank == 0:
        ranks.share(dump(config))
    ranks.phase = "building"
    experiment, problem = None, None
    try:
        announce = warn if ranks.rank == 0 else lambda text: None
        experiment = build_or_fall_back(config, announce, ranks)
    except MinidlError as error:
        problem = error
    problems = ranks.gather(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for rank, said in enumerate(problems):
        if said is not None:
            raise ConfigError(f"rank {rank}: {said}")
    assert experiment is not None
    described = machine.describe()
    ranks.compare(
        {
            "config": dump(experiment.config),
            "data": fingerprint(experiment.dataset),
            "SIMD": np.show_config(mode="dicts")["SIMD Extensions"],
            **{name: described[name] for name in COMPARED},
        }
    )
    ranks.phase = "waiting"
    return experiment
