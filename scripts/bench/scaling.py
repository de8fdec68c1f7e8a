"""How training scales: ranks of an MPI job against threads of one process, disk against memory.

`measure` starts this file as a job for each way; the job prints one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy
from minidl.data.disk import npy_rows
from minidl.ranks import Ranks
from minidl.training import Training

SIZES, BATCH, STEPS = (784, 512, 256, 10), 256, 300
# name: (ranks, threads of each, rows of a batch); all with two shards
WAYS = {
    "1 rank, 1 thread": (1, 1, BATCH),
    "1 rank, 2 threads": (1, 2, BATCH),
    "2 ranks, strong": (2, 1, BATCH),
    "2 ranks, weak": (2, 1, 2 * BATCH),
}
DISK_ROWS, DISK_SIZES = 200_000, ((784, 32, 10), (784, 128, 10), SIZES)


def training_of(X: Any, sizes: tuple[int, ...], batch_size: int, **options: Any) -> Training:
    """Return the training of a net with ReLUs on rows of random labels."""
    rng = np.random.default_rng(0)
    layers = [
        layer for n_in, n_out in pairwise(sizes) for layer in (Linear(n_in, n_out, rng=rng), ReLU())
    ]
    y = rng.integers(0, sizes[-1], len(X))
    return Training(
        Sequential(layers[:-1]), SoftmaxCrossEntropy(), SGD(0.01, momentum=0.9), (X, y),
        epochs=10**6, batch_size=batch_size, rng=rng, **options,
    )  # fmt: skip


def timed(what: Callable[[], object], n: int) -> float:
    """Return the median of the seconds that n calls take."""
    found = []
    for _ in range(n):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main(threads: int, batch_size: int) -> None:
    """Train in this process, one of the ranks; rank 0 prints the seconds of a step."""
    ranks, spent = Ranks.of_this_job(), [0.0]
    X = np.random.default_rng(0).standard_normal((8 * batch_size, SIZES[0])).astype(np.float32)
    training = training_of(X, SIZES, batch_size, shards=2, blas_threads=threads, ranks=ranks)
    steps = training.steps()
    timed(lambda: next(steps), STEPS // 5)
    step = timed(lambda: next(steps), STEPS)
    if ranks is not None:
        add_up = ranks.add_up

        def alone(*arguments: Any) -> None:
            ranks.comm.Barrier()  # what follows is communication, not waiting for the other rank
            spent.append(timed(lambda: add_up(*arguments), 1))

        ranks.add_up = alone  # type: ignore[method-assign]
        timed(lambda: next(steps), STEPS)
    if ranks is None or ranks.rank == 0:
        print(json.dumps({"step": step, "communication": statistics.median(spent) / step}))


def reading(repeats: int) -> str:
    """Train an epoch from memory and one from the disk in turn; return a table of medians.

    The file is in the system's cache, if that is large enough: the disk itself is not measured.
    """
    lines = ["| net | from memory, rows/s | from the disk, of that |", "| --- " * 3 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/X.npy"
        X = np.random.default_rng(0).standard_normal((DISK_ROWS, SIZES[0]), dtype=np.float32)
        np.save(path, X)
        for sizes in DISK_SIZES:
            found: list[float] = []
            ways = [training_of(rows, sizes, BATCH, blas_threads=1) for rows in (X, npy_rows(path))]
            epochs = [(each for each in way.steps() if each is not None) for way in ways]
            for _ in range(repeats):
                found += [timed(partial(next, each), 1) for each in epochs]
            memory, disk = statistics.median(found[0::2]), statistics.median(found[1::2])
            net = "-".join(map(str, sizes))
            lines.append(f"| {net} | {DISK_ROWS / memory:.0f} | {memory / disk:.2f} |")
    return "\n".join(lines) + "\n"


def measure(repeats: int) -> str:
    """Run each way in turn; return tables of medians."""
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
    return "\n".join(lines) + "\n\n" + reading(repeats)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
