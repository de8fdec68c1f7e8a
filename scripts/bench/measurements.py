"""What is measured in the children: time of a step, and memory.

Contenders take turns, in each repeat in another order, so that whatever slows the machine for a
while slows them all. Each rests after its turn until its threads have stopped spinning.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contenders import Child, Contender

REST = 0.25  # seconds; an idle thread of OpenBLAS spins for 2**28 cycles, some 0.1 s
Times = dict[str, list[float]]  # by contender, one figure a repeat


def take_turns(names: Sequence[str], repeats: int, measure: Callable[[str], float]) -> Times:
    """Call measure(name) for each name once a repeat, in random order, with a rest after each."""
    times: Times = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation(names):  # nobody always follows the same one
            times[str(name)].append(measure(str(name)))
            time.sleep(REST)
    return times


def steps(
    contenders: Sequence[Contender], cells: Sequence[Cell], repeats: int, *, busy: bool = False
) -> dict[str, Any]:
    """Return the seconds of a training step for each cell; with `busy` also beside a busy process.

    {"A": {"cell": {...}, "settings": {contender: {...}}, "seconds": Times, "busy_seconds": Times}}
    """
    results = {}
    with _started(contenders) as children:
        for cell in cells:
            warm_up = max(1, cell.n_batches // 5)
            settings = {name: child.prepare(cell) for name, child in children.items()}

            def measure(name: str, cell: Cell = cell, warm_up: int = warm_up) -> float:
                return children[name].train(cell.n_batches, warm_up)

            take_turns(list(children), 1, measure)  # compiles, and touches the memory
            result = {"cell": dataclasses.asdict(cell), "settings": settings}
            result["seconds"] = take_turns(list(children), repeats, measure)
            if busy:
                with busy_core():
                    result["busy_seconds"] = take_turns(list(children), repeats, measure)
            results[cell.name] = result
    return results


def peak_memory(contenders: Sequence[Contender], cell: Cell, repeats: int) -> Times:
    """Return the most bytes that a fresh process holds that trains one pass."""
    by_name = {contender.name: contender for contender in contenders}

    def measure(name: str) -> float:
        with Child(by_name[name]) as child:
            child.prepare(cell)
            child.train(cell.n_batches, 1)
            return child.peak_memory()

    return take_turns(list(by_name), repeats, measure)


def growth(contender: Contender, cells: Sequence[Cell], repeats: int) -> dict[str, Any]:
    """Return what `steps` does, and under "bytes" the most that a process holds that trains so."""
    results = steps([contender], cells, repeats)
    for cell in cells:
        results[cell.name]["bytes"] = peak_memory([contender], cell, 1)
    return results


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy by another process, which may run on any."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.2)
            yield
        finally:
            process.kill()


@contextmanager
def _started(contenders: Sequence[Contender]) -> Iterator[dict[str, Child]]:
    with ExitStack() as stack:
        yield {one.name: stack.enter_context(Child(one)) for one in contenders}
