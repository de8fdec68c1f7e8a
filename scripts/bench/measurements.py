"""What is measured of contenders that run in processes of their own.

They take turns, in each repeat in another order, so that whatever slows the machine for a while
slows them all. Each rests after its turn until its threads have stopped spinning.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.cells import GRID, GROWTH, Cell
from bench.contenders import COMPILED_ONCE, Contender

REST = 0.25  # seconds; an idle thread of OpenBLAS spins for 2**28 cycles, some 0.1 s
Times = dict[str, list[float]]  # by contender, one figure a repeat
Results = tuple[dict[str, Times], dict[str, Any]]  # by row of the table; notes on contenders


@dataclass(frozen=True)
class Plan:
    """What is measured.  mnist: the path of mnist.npz, for the race."""

    contenders: Sequence[Contender]
    cells: Sequence[Cell] = (*GRID.values(),)
    repeats: int = 7
    mnist: Path | None = None

    @property
    def trainers(self) -> list[Contender]:
        """The contenders without those that only multiply matrices."""
        return [one for one in self.contenders if one.trains]


def take_turns(calls: dict[str, Callable[[], float]], repeats: int) -> Times:
    """Make each call once a repeat, in random order, with a rest after each."""
    times: Times = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation([*calls]).tolist():  # nobody always follows the same one
            times[name].append(calls[name]())
            time.sleep(REST)
    return times


def steps(plan: Plan) -> Results:
    """Return the seconds of a training step, and the settings of the contenders in the last cell.

    Before they count, each takes a turn that compiles and touches the memory.
    """
    results, settings = {}, {}
    with ExitStack() as stack:
        children = {one.name: stack.enter_context(one.at_work()) for one in plan.contenders}
        for cell in plan.cells:
            settings = {name: ask(asdict(cell)) for name, ask in children.items()}
            calls = {name: partial(_step, ask, cell) for name, ask in children.items()}
            take_turns(calls, 1)
            results[cell.title] = take_turns(calls, plan.repeats)
    return results, settings


def _step(ask: Callable[[Any], Any], cell: Cell) -> float:
    return float(ask(cell.n_batches)[0])


def busy(plan: Plan) -> Results:
    """Return the time of a step beside a busy process, divided by the time alone.

    With fewer batches: some contenders are a hundred times slower then.
    """
    cells = [replace(cell, n_batches=max(2, cell.n_batches // 4)) for cell in plan.cells]
    plan = replace(plan, cells=cells, contenders=plan.trainers)
    alone, _ = steps(plan)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            beside, _ = steps(plan)
        finally:
            process.kill()
    return {
        case: {name: ratios(beside[case][name], times[name]) for name in times}
        for case, times in alone.items()
    }, {}


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Return our time by theirs in the same repeat, for each repeat."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def memory(plan: Plan, cell: Cell = GRID["D"]) -> Results:
    """Return the most bytes that a fresh process holds that trains one pass of the cell."""
    calls = {one.name: partial(_memory, one, cell) for one in plan.trainers}
    return {cell.title: take_turns(calls, plan.repeats)}, {}


def _memory(contender: Contender, cell: Cell) -> float:
    with contender.at_work() as ask:
        ask(asdict(cell))
        return float(ask(cell.n_batches)[1])


def growth(plan: Plan, cells: Sequence[Cell] = GROWTH) -> Results:
    """Return time and memory, of the first contender's process and of the data alone."""
    results: dict[str, Times] = {}
    for cell in cells:
        one = replace(plan, contenders=plan.contenders[:1], cells=[cell])
        (seconds,) = steps(one)[0][cell.title].values()
        results[cell.title] = {
            "step, microseconds": [1e6 * each for each in seconds],
            "row, nanoseconds": [1e9 * each / cell.batch_size for each in seconds],
            "peak memory, MB": [1e-6 * _memory(plan.contenders[0], cell)],
            "data, MB": [4e-6 * cell.n_batches * cell.batch_size * cell.sizes[0]],
        }
    return results, {}


def imports(plan: Plan) -> Results:
    """Return the seconds that the import takes in a fresh process, its files in the page cache."""
    calls = {one.name: partial(_import, one.statement) for one in plan.contenders if one.statement}
    take_turns(calls, 1)
    return {"import": take_turns(calls, plan.repeats)}, {}


def _import(statement: str) -> float:
    program = (
        "import time; started = time.perf_counter(); "
        f"{statement}; print(time.perf_counter() - started)"
    )
    command, environment = [sys.executable, "-c", program], {**os.environ, **COMPILED_ONCE}
    return float(subprocess.check_output(command, text=True, env=environment))


def races(plan: Plan) -> Results:
    """Return the seconds from the start of a process to its end, with epochs and accuracy.

    The files of all libraries are in the page cache, since each takes a turn that does not count.
    """
    ends: dict[str, Any] = {}

    def race(contender: Contender) -> float:
        started = time.perf_counter()
        with contender.at_work() as ask:
            ends[contender.name] = ask(str(plan.mnist))
        return time.perf_counter() - started

    calls = {one.name: partial(race, one) for one in plan.trainers}
    take_turns(calls, 1)
    return {"98 % on the test set of MNIST": take_turns(calls, plan.repeats)}, ends
