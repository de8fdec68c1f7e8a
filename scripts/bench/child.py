"""The child's side of the benchmark: obeys one JSON line at a time, or runs the race on MNIST.

Times are taken here, so that they do not include the conversation with the parent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_info

from bench.cells import Cell, Problem, he_normal
from minidl.kernels import Array
from minidl.runs.machine import peak_memory_bytes

WARM_UP = 0.1  # seconds; the system moves threads to free cores only after some time


class Rival(Protocol):
    """What a contender's program must be able to do."""

    race_epochs: int  # how many epochs it may take on MNIST; the schedule is made for 3

    def prepare(self, problem: Problem) -> dict[str, Any]:
        """Get ready to train; return settings, such as threads and the BLAS kernel."""

    def run(self, n_batches: int) -> None:
        """Shuffle, train so many batches, and return when the last parameters are there."""

    def outputs(self, x: Array) -> Any:
        """Return the outputs for x, (n_samples, n_in)."""


def main(rival: Rival) -> None:
    """Do what the command line says: `race FILE ACCURACY`, or obey the lines of standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    orders = map(json.loads, sys.stdin)
    if "race" in sys.argv:
        file, accuracy = sys.argv[-2:]
        orders = iter([("race", {"file": file, "accuracy": float(accuracy)})])
    for command, arguments in orders:
        print(json.dumps(COMMANDS[command](rival, **arguments)), file=answers, flush=True)


def numpy_blas() -> str:
    """Return name, version and kernel of NumPy's BLAS, as it runs in this process."""
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]:
            return f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
    return "unknown"


def prepare(rival: Rival, sizes: list[int], **cell: Any) -> dict[str, Any]:
    """Let the rival get ready for a cell; return its settings."""
    return rival.prepare(Cell(sizes=tuple(sizes), **cell).problem())


def train(rival: Rival, n_batches: int, warm_up: int) -> float:
    """Return the seconds a step, after the threads have worked for a while."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP:
        rival.run(warm_up)
    started = time.perf_counter()
    rival.run(n_batches)
    return (time.perf_counter() - started) / n_batches


def race(rival: Rival, file: str, accuracy: float) -> dict[str, Any]:
    """Train 784-256-10 on MNIST until the accuracy on the test set is reached.

    Pixels are standardised by one mean and one deviation; the batch size is 128, the momentum
    Nesterov's, and the learning rate a cycle of three epochs with its maximum at 0.1.
    """
    with np.load(file) as mnist:
        images, y, test_images, y_test = (
            mnist[name] for name in ("x_train", "y_train", "x_test", "y_test")
        )
    n = len(images) // 128 * 128
    X, X_test = (rows.reshape(-1, 784).astype(np.float32) for rows in (images[:n], test_images))
    mean = X.mean()
    X -= mean  # in place: passes over new memory took longer than an epoch
    deviation = np.sqrt(np.vdot(X, X) / X.size)
    X /= deviation
    X_test = (X_test - mean) / deviation
    weights = he_normal((784, 256, 10), last_gain=0.1)
    problem = Problem(X, y[:n].astype(np.int64), weights, 128, 0.1, nesterov=True, epochs=3)
    rival.prepare(problem)
    epoch, reached = 0, 0.0
    while reached < accuracy and epoch < rival.race_epochs:
        rival.run(problem.steps_per_epoch)
        outputs = np.asarray(rival.outputs(X_test))
        epoch, reached = epoch + 1, float((outputs.argmax(axis=1) == y_test).mean())
    return {"epochs": epoch, "accuracy": reached}


COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": prepare,
    "train": train,
    "race": race,
    "peak_memory": lambda rival: peak_memory_bytes(),
}
