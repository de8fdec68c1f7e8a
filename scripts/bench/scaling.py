"""How training scales: ranks of an MPI job against threads of one process, disk against memory.

`ranks` starts this file as a job for each way; the job prints one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.measurements import Plan, Results, Times
from bench.rivals.own import training_of
from minidl.data.disk import npy_rows
from minidl.ranks import Ranks

SIZES, BATCH, STEPS = (784, 512, 256, 10), 256, 300
# name: (ranks, threads of each, rows of a batch); all with two shards
WAYS = {
    "1 rank, 1 thread": (1, 1, BATCH),
    "1 rank, 2 threads": (1, 2, BATCH),
    "2 ranks, strong": (2, 1, BATCH),
    "2 ranks, weak": (2, 1, 2 * BATCH),
}
DISK_STEPS, DISK_SIZES = 800, ((784, 32, 10), (784, 128, 10), SIZES)


def timed(what: Callable[[], object], n: int = 1) -> float:
    """Return the median of the seconds that n calls take."""
    found = []
    for _ in range(n):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return median(found)


def main(threads: int, batch_size: int) -> None:
    """Train in this process, one of the ranks; rank 0 prints the seconds of a step."""
    ranks, spent = Ranks.of_this_job(), [0.0]
    problem = Cell("", SIZES, batch_size, 8).problem()
    steps = training_of(problem, shards=2, blas_threads=threads, ranks=ranks).steps()
    timed(lambda: next(steps), STEPS // 5)
    step = timed(lambda: next(steps), STEPS)
    if ranks is not None:
        add_up = ranks.add_up

        def alone(*arguments: Any) -> None:
            ranks.comm.Barrier()  # what follows is communication, not waiting for the other rank
            spent.append(timed(lambda: add_up(*arguments)))

        ranks.add_up = alone  # type: ignore[method-assign]
        timed(lambda: next(steps), STEPS)
    if ranks is None or ranks.rank == 0:
        print(json.dumps({"step": step, "communication": median(spent) / step}))


def ranks(plan: Plan) -> Results:
    """Return of each way the time of a step, its speed by that of one rank, and communication."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    columns = ("step, milliseconds", "rows a second, of 1 rank", "communication, %")
    results: dict[str, Times] = {name: {column: [] for column in columns} for name in WAYS}
    for _ in range(plan.repeats):
        for name, (n_ranks, threads, batch_size) in WAYS.items():
            start = [mpiexec, "-n", str(n_ranks)] if n_ranks > 1 else []
            python = [sys.executable, "-m", "bench.scaling", str(threads), str(batch_size)]
            folder = Path(__file__).parents[1]
            job = json.loads(subprocess.check_output([*start, *python], cwd=folder))
            if name == next(iter(WAYS)):
                row = job["step"] / batch_size
            figures = 1e3 * job["step"], row * batch_size / job["step"], 100 * job["communication"]
            for column, figure in zip(columns, figures, strict=True):
                results[name][column].append(figure)
    return results, {}


def disk(plan: Plan) -> Results:
    """Train an epoch from memory and one from the disk in turn; return rows a second.

    The file is in the system's cache, if that is large enough: the disk itself is not measured.
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/X.npy"
        for sizes in DISK_SIZES:
            memory = Cell("", sizes, BATCH, DISK_STEPS).problem()
            np.save(path, memory.X)
            problems = memory, replace(memory, X=npy_rows(path))
            ways = [training_of(problem, blas_threads=1) for problem in problems]
            epochs = [(each for each in way.steps() if each is not None) for way in ways]
            seconds = [[timed(partial(next, one)) for one in epochs] for _ in range(plan.repeats)]
            results["-".join(map(str, sizes))] = {
                "memory": [len(memory.X) / each for each, _ in seconds],
                "disk": [len(memory.X) / each for _, each in seconds],
                "disk by memory": [a / b for a, b in seconds],
            }
    return results, {}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
