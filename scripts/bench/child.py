"""A contender's process: it answers the orders of the benchmark, one JSON line at a time.

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

ACCURACY = 0.98  # at which the race on MNIST ends
WARM_UP = 0.1  # seconds; the system moves threads to free cores only after some time

Run = Callable[[list[float]], object]  # shuffles, makes a step with each rate, and waits for them
Outputs = Callable[[Any], Any]  # of x, (n_samples, n_in)
Prepare = Callable[..., tuple[Run, Outputs, dict[str, Any]]]  # and settings, as threads


def main(prepare: Prepare) -> None:
    """Obey the lines of standard input: a cell, a number of its steps, or the file of the race.

    The answers are the rival's settings; the seconds of a step and the most memory that the process
    has held; the epochs and the accuracy of the race. `prepare` is also given the command line's
    arguments.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    for order in map(json.loads, sys.stdin):
        if isinstance(order, dict):
            problem = Cell(**order).problem()
            run, _, answer = prepare(problem, *sys.argv[1:])
        elif isinstance(order, str):
            answer = race(prepare, order)
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


def race(prepare: Prepare, file: str) -> dict[str, Any]:
    """Train 196-192-10 on MNIST, until 98 % of the test set are right.

    An input is the sum of four pixels, standardised by one mean and one deviation. The recipe was
    chosen on the last 10,000 training images. The test set is read after its last epoch; a rival
    without a schedule may take `race_epochs`, and the test set is read after each of the others.
    """
    with np.load(file) as mnist:
        images, y, test_images, y_test = (
            mnist[name] for name in ("x_train", "y_train", "x_test", "y_test")
        )
    n = len(images) // 128 * 128
    X, X_test = quarter(images[:n]), quarter(test_images)
    mean = X.mean()
    X -= mean  # in place: new memory costs more than an operation
    deviation = np.sqrt(np.vdot(X, X) / X.size)
    X /= deviation
    X_test = (X_test - mean) / deviation
    problem = Problem(
        X,
        y[:n].astype(np.int64),
        he_normal((196, 192, 10)),
        batch_size=128,
        learning_rate=0.3,
        nesterov=True,
        epochs=4,
        label_smoothing=0.1,
        weight_decay=3e-4,
    )
    run, outputs, settings = prepare(problem, *sys.argv[1:])
    epoch, reached = 0, 0.0
    while reached < ACCURACY and epoch < settings.get("race_epochs", problem.epochs):
        run(problem.rates(epoch * problem.steps_per_epoch, problem.steps_per_epoch))
        epoch += 1
        if epoch >= problem.epochs:
            reached = float((np.asarray(outputs(X_test)).argmax(axis=1) == y_test).mean())
    return {"epochs": epoch, "accuracy": reached}


def quarter(images: Any) -> Any:
    """Return the sums of each two times two pixels of bytes, (n_images, 196) float32."""
    X = np.empty((len(images), 14, 14), np.float32)
    for start in range(0, len(images), 500):  # what lies between stays in the cache
        part = slice(start, start + 500)
        halves = np.add(images[part, ::2], images[part, 1::2], dtype=np.uint16)
        np.add(halves[:, :, ::2], halves[:, :, 1::2], out=X[part])
    return X.reshape(-1, 196)
