"""The child's side of the benchmark: a loop that obeys one JSON line at a time.

Times are taken here, so that nothing of the conversation is in them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from minidl.benchmark.cells import Cell
from minidl.kernels import Array
from minidl.runs.machine import peak_memory_bytes

WARM_UP = 0.1  # seconds; threads that wake on one core are moved apart only after some time
SHORTEST = 0.05  # seconds; predictions are repeated for at least so long


class Contestant(Protocol):
    """What a contender's program must be able to do."""

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Get ready to train this cell; return the settings of threads and the like."""

    def run(self, n_batches: int) -> None:
        """Shuffle, and train so many batches; return when the last parameters are there."""

    def predictor(self, x: Array) -> Callable[[], object]:
        """Return a call that computes the outputs for x, (n_samples, n_in), as they are in use."""


def serve(contestant: Contestant) -> None:
    """Obey the lines of standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_obey(contestant, **order)), file=answers, flush=True)


def _obey(contestant: Contestant, command: str, **arguments: Any) -> Any:
    if command == "prepare":
        sizes = tuple(arguments.pop("sizes"))
        return contestant.prepare(Cell(sizes=sizes, **arguments))
    if command == "train":
        return _train(contestant, **arguments)
    if command == "predict":
        return _predict(contestant, **arguments)
    assert command == "peak_memory"
    return peak_memory_bytes()


def _train(contestant: Contestant, n_batches: int, warm_up: int) -> float:
    """Seconds a step, once the threads have been at work for a while, each on its own core."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP:
        contestant.run(warm_up)
    started = time.perf_counter()
    contestant.run(n_batches)
    return (time.perf_counter() - started) / n_batches


def _predict(contestant: Contestant, x: list[int]) -> float:
    """Seconds a call, for rows of the shape `x`."""
    predict = contestant.predictor(np.random.default_rng(2).standard_normal(x, dtype=np.float32))
    for _ in range(3):
        predict()
    n_calls, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < SHORTEST:
        predict()
        n_calls += 1
        elapsed = time.perf_counter() - started
    return elapsed / n_calls
