"""What is measured of contenders that run in processes of their own.

They take turns, in each repeat in another order, so that whatever slows the machine for a while
slows them all. Each rests after its turn until its threads have stopped spinning.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.cells import GRID, Cell
from bench.contenders import Child, Contender

REST = 0.25  # seconds; an idle thread of OpenBLAS spins for 2**28 cycles, some 0.1 s
ACCURACY = 0.98  # at which the race on MNIST ends
Times = dict[str, list[float]]  # by contender, one figure a repeat
Results = tuple[dict[str, Times], Any]  # by row of the table; and what else is to be noted


@dataclass(frozen=True)
class Plan:
    """What is measured.  mnist: the path of mnist.npz, for the race."""

    contenders: Sequence[Contender]
    cells: Sequence[Cell] = (*GRID.values(),)
    repeats: int = 7
    mnist: Path | None = None

    @property
    def trainers(self) -> dict[str, Contender]:
        """The contenders by name, without those that only multiply matrices."""
        return {one.name: one for one in self.contenders if one.trains}


def take_turns(names: Sequence[str], repeats: int, measure: Callable[[str], float]) -> Times:
    """Call measure(name) for each name once a repeat, in random order, with a rest after each."""
    times: Times = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation(names):  # nobody always follows the same one
            times[str(name)].append(measure(str(name)))
            time.sleep(REST)
    return times


def steps(plan: Plan) -> Results:
    """Return the seconds of a training step for each cell, and the settings of the contenders."""
    results, settings = {}, {}
    with ExitStack() as stack:
        children = {one.name: stack.enter_context(Child(one)) for one in plan.contenders}
        for cell in plan.cells:
            order = {"n_batches": cell.n_batches, "warm_up": max(1, cell.n_batches // 5)}
            settings[cell.title] = {
                name: child.ask("prepare", **asdict(cell)) for name, child in children.items()
            }

            def measure(name: str, order: dict[str, int] = order) -> float:
                return float(children[name].ask("train", **order))

            take_turns(list(children), 1, measure)  # compiles, and touches the memory
            results[cell.title] = take_turns(list(children), plan.repeats, measure)
    return results, settings


def busy(plan: Plan) -> Results:
    """Return the time of a step beside a busy process, divided by the time alone.

    With fewer batches: some contenders are a hundred times slower then.
    """
    cells = [replace(cell, n_batches=max(2, cell.n_batches // 4)) for cell in plan.cells]
    plan = replace(plan, cells=cells, contenders=list(plan.trainers.values()))
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


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return our time by theirs in the same repeat, for each repeat."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def peak_memory(plan: Plan) -> Results:
    """Return the most bytes that a fresh process holds that trains one pass of the first cell."""
    cell = plan.cells[0]

    def measure(name: str) -> float:
        with Child(plan.trainers[name]) as child:
            child.ask("prepare", **asdict(cell))
            child.ask("train", n_batches=cell.n_batches, warm_up=1)
            return float(child.ask("peak_memory"))

    return {cell.title: take_turns(list(plan.trainers), plan.repeats, measure)}, {}


def growth(plan: Plan) -> Results:
    """Return time and memory, of the first contender's process and of the data alone."""
    plan = replace(plan, contenders=plan.contenders[:1])
    results: dict[str, Times] = {}
    for cell in plan.cells:
        (seconds,) = steps(one := replace(plan, cells=[cell]))[0][cell.title].values()
        (memory,) = peak_memory(replace(one, repeats=1))[0][cell.title].values()
        results[cell.title] = {
            "step, microseconds": [1e6 * each for each in seconds],
            "row, nanoseconds": [1e9 * each / cell.batch_size for each in seconds],
            "peak memory, MB": [1e-6 * memory[0]],
            "data, MB": [4e-6 * cell.n_batches * cell.batch_size * cell.sizes[0]],
        }
    return results, {}


def imports(plan: Plan) -> Results:
    """Return the seconds that the import takes in a fresh process, its files in the page cache."""
    statements = {one.name: one.statement for one in plan.contenders if one.statement}

    def measure(name: str) -> float:
        program = (
            "import time; started = time.perf_counter(); "
            f"{statements[name]}; print(time.perf_counter() - started)"
        )
        return float(subprocess.check_output([sys.executable, "-c", program], text=True))

    take_turns(list(statements), 1, measure)
    return {"import": take_turns(list(statements), plan.repeats, measure)}, {}


def races(plan: Plan) -> Results:
    """Return the seconds from the start of a process to its end, with epochs and accuracies.

    It ends when the accuracy on the test set is reached, or after the epochs that it may take.
    """
    ends: dict[str, list[Any]] = {name: [] for name in plan.trainers}

    def measure(name: str) -> float:
        started = time.perf_counter()
        with plan.trainers[name].start("race", str(plan.mnist), str(ACCURACY)) as process:
            output = process.communicate()[0]
        seconds = time.perf_counter() - started
        ends[name].append(json.loads(output))
        return seconds

    title = f"{ACCURACY:.0%} on the test set of MNIST"
    return {title: take_turns(list(plan.trainers), plan.repeats, measure)}, ends
