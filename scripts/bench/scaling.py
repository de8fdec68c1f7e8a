"""How training scales: ranks of an MPI job against threads of one process.

`measure` starts this file as a job for each way; the job prints one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy
from minidl.ranks import Ranks
from minidl.training import Training

SIZES, BATCH, STEPS = (784, 512, 256, 10), 256, 60
# name: (ranks, threads of each, rows of a batch); all with two shards
WAYS = {
    "1 rank, 1 thread": (1, 1, BATCH),
    "1 rank, 2 threads": (1, 2, BATCH),
    "2 ranks, strong": (2, 1, BATCH),
    "2 ranks, weak": (2, 1, 2 * BATCH),
}


def main(threads: int, batch_size: int) -> None:
    """Train in this process, one of the ranks; rank 0 prints the seconds of a step."""
    ranks, rng, spent = Ranks.of_this_job(), np.random.default_rng(0), 0.0
    X = rng.standard_normal((8 * batch_size, SIZES[0])).astype(np.float32)
    layers = [
        layer for n_in, n_out in pairwise(SIZES) for layer in (Linear(n_in, n_out, rng=rng), ReLU())
    ]
    training = Training(
        Sequential(layers[:-1]), SoftmaxCrossEntropy(), SGD(0.01, momentum=0.9),
        (X, rng.integers(0, 10, len(X))), epochs=10**6, batch_size=batch_size, rng=rng, shards=2,
        blas_threads=threads, ranks=ranks,
    )  # fmt: skip
    steps = training.steps()
    if ranks is not None:
        add_up = ranks.add_up

        def timed(*arguments: Any) -> None:
            nonlocal spent
            ranks.comm.Barrier()  # what follows is communication, not waiting for the other rank
            began = time.perf_counter()
            add_up(*arguments)
            spent += time.perf_counter() - began

    rounds: list[float] = []
    for _ in range(8):
        began = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        rounds.append((time.perf_counter() - began) / STEPS)
    if ranks is not None:
        ranks.add_up = timed  # type: ignore[method-assign]
        for _ in range(2 * STEPS):
            next(steps)
    if ranks is None or ranks.rank == 0:
        step = statistics.median(rounds[1:])
        print(json.dumps({"step": step, "communication": spent / (2 * STEPS) / step}))


def measure(repeats: int) -> str:
    """Run each way in turn; return a table of medians."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, (n_ranks, threads, batch_size) in WAYS.items():
            start = [mpiexec, "-n", str(n_ranks)] if n_ranks > 1 else []
            python = [sys.executable, "-m", "bench.scaling", str(threads), str(batch_size)]
            run = subprocess.run(
                [*start, *python], cwd=Path(__file__).parents[1], check=True, capture_output=True
            )
            found[name].append(json.loads(run.stdout))
    lines = ["| way | step, ms | rows a second, of 1 rank | communication |", "| --- " * 4 + "|"]
    base = statistics.median(each["step"] for each in found["1 rank, 1 thread"]) / BATCH
    for name, (_, _, batch_size) in WAYS.items():
        step = statistics.median(each["step"] for each in found[name])
        share = statistics.median(each["communication"] for each in found[name])
        speed = base * batch_size / step
        lines.append(f"| {name} | {1e3 * step:.2f} | {speed:.2f} | {100 * share:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
