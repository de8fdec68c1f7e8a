"""The child's side of the benchmark: obeys one JSON line at a time, or runs the race on MNIST.

Times are taken here, so that they do not include the conversation with the parent. Nothing of
minidl is imported: it would count in the start and the memory of every rival.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from bench.cells import Cell, Problem, he_normal

WARM_UP = 0.1  # seconds; the system moves threads to free cores only after some time

Run = Callable[[list[float]], object]  # shuffles, makes a step with each rate, and waits for them
Outputs = Callable[[Any], Any]  # of x, (n_samples, n_in)
Prepare = Callable[[Problem], tuple[Run, Outputs, dict[str, Any]]]  # and settings, as threads


def main(prepare: Prepare, race_epochs: int = 3) -> None:
    """Run `race FILE ACCURACY` of the command line, or else obey the lines of standard input.

    A line holds a cell, which is answered by the rival's settings, or a number of steps, answered
    by the seconds of one and by the most memory that the process has held.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    if "race" in sys.argv:
        print(json.dumps(race(prepare, *sys.argv[-2:], race_epochs)), file=answers, flush=True)
        return
    for order in map(json.loads, sys.stdin):
        if isinstance(order, dict):
            problem = Cell(**order).problem()
            run, _, answer = prepare(problem)
        else:
            answer = seconds_of_a_step(run, problem, order), peak_memory_bytes()
        print(json.dumps(answer), file=answers, flush=True)


def numpy_blas() -> str:
    """Return name, version and kernel of NumPy's BLAS, as it runs in this process."""
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]:
            return f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
    return "unknown"


def peak_memory_bytes() -> float:
    """Return the most memory that this process has held; NaN where the system is not Linux."""
    try:
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0])
    except OSError:
        return math.nan


def seconds_of_a_step(run: Run, problem: Problem, n_steps: int) -> float:
    """Return the seconds of a step, after the threads have worked for a while."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP:
        run(problem.rates(0, max(1, n_steps // 5)))
    rates, started = problem.rates(0, n_steps), time.perf_counter()
    run(rates)
    return (time.perf_counter() - started) / n_steps


def race(prepare: Prepare, file: str, accuracy: str, most_epochs: int) -> dict[str, Any]:
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
    run, outputs, _ = prepare(problem)
    epoch, reached = 0, 0.0
    while reached < float(accuracy) and epoch < most_epochs:
        run(problem.rates(epoch * problem.steps_per_epoch, problem.steps_per_epoch))
        epoch += 1
        reached = float((np.asarray(outputs(X_test)).argmax(axis=1) == y_test).mean())
    return {"epochs": epoch, "accuracy": reached}
