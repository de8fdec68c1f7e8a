"""A run on the ranks of an MPI job: rank 0 runs it and writes its folder, the others follow.

Rank 0 sends the config. All ranks build the experiment from it and compare what they have. Rank 0
sends the state to begin with, and then all make the same steps. An error on one rank ends all.
"""

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


def train_together(command: Callable[[Ranks | None], int]) -> int:
    """Run a command on rank 0, and the steps of its run on the others; return the exit code.

    Outside of an MPI job the command is given None.
    """
    ranks = Ranks.of_this_job()
    if ranks is None:
        return command(None)
    try:
        code = command(ranks) if ranks.rank == 0 else _follow(ranks)
    except MinidlError as error:
        if ranks.phase == "training" and not isinstance(error, DivergenceError):
            ranks.abort(error)  # the others do not know of it
        if ranks.rank == 0:
            warn(str(error))
        if ranks.phase != "waiting":  # no rank ends the job before rank 0 has said it
            ranks.comm.Barrier()
        code = error.exit_code
    except SystemExit:  # of the parser of arguments
        raise
    except BaseException as error:
        ranks.abort(error)
    finally:
        if ranks.rank == 0 and ranks.phase == "waiting":  # the others wait for what it sends
            ranks.comm.bcast(None)
    return code


def _follow(ranks: Ranks) -> int:
    text = ranks.comm.bcast(None)
    if text is not None:
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


def build_together(ranks: Ranks | None, config: Config) -> Experiment:
    """Build the experiment on all ranks; raise the error of any of them, or a difference.

    Without a job (ranks None) it is built here alone.
    """
    if ranks is None:
        return build_or_fall_back(config, warn)
    if ranks.rank == 0:
        ranks.comm.bcast(dump(config))
    ranks.phase = "building"
    problem = None
    try:
        announce = warn if ranks.rank == 0 else lambda text: None
        experiment = build_or_fall_back(config, announce, ranks)
    except MinidlError as error:
        problem = error
    problems = ranks.comm.allgather(None if problem is None else str(problem))
    said = [f"rank {rank}: {text}" for rank, text in enumerate(problems) if text is not None]
    if said:
        raise problem or ConfigError(said[0])
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
