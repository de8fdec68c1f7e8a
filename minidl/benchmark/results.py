"""Measures the parts that are asked for and keeps what came out in a folder.

FOLDER/PART.json    the raw figures of each repeat, with the machine, versions and settings
FOLDER/benchmark.md the tables of all parts that the folder holds
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidl.benchmark import measurements, processes, tables
from minidl.benchmark.cells import GRID, Cell
from minidl.benchmark.children import chosen_contenders
from minidl.blas import THREAD_VARIABLES
from minidl.errors import ConfigError, DataError
from minidl.runs import machine

PARTS = ("steps", "busy", "prediction", "memory", "imports", "size", "mnist")
COMPARED = ("minidl", "rival")
BARE_NUMPY = "GEMMs all cores"  # with the threads that anybody gets
ACCURACY = 0.98


def benchmark(
    folder: Path,
    *,
    parts: Sequence[str] = PARTS,
    cells: Sequence[Cell] = (*GRID.values(),),
    contenders: Sequence[str] | None = None,
    repeats: int = 7,
    mnist: str | None = None,
    announce: Callable[[str], None] = print,
) -> str:
    """Measure, write the results into `folder`, and return the tables.

    mnist: path of mnist.npz; by default that in $MINIDL_DATA_DIR.  Raises ConfigError, DataError.
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"{part!r} is no part; these are: {', '.join(PARTS)}")
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}")
    everyone = chosen_contenders(contenders)
    compared = [one for one in everyone if one.role in COMPARED]
    learners = [one for one in everyone if one.role != "floor"]
    forwards = [one for one in everyone if one.role in COMPARED or one.name == BARE_NUMPY]
    mnist_file = _mnist_file(mnist) if "mnist" in parts else ""
    measure: dict[str, Callable[[], Any]] = {
        "steps": lambda: measurements.steps(everyone, cells, repeats),
        "busy": lambda: measurements.steps(compared, _shorter(cells), repeats, busy=True),
        "prediction": lambda: measurements.predictions(forwards, GRID["C"], repeats),
        "memory": lambda: measurements.peak_memory(learners, GRID["D"], repeats),
        "imports": lambda: processes.import_times(everyone, repeats),
        "size": lambda: processes.installed_sizes(everyone),
        "mnist": lambda: processes.mnist_races(compared, mnist_file, ACCURACY, repeats),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as output folder: {error.strerror}") from error
    for part in parts:
        announce(f"{part} ...")
        before = time.monotonic(), _busy_elsewhere()
        measured = measure[part]()
        elapsed, elsewhere = time.monotonic() - before[0], _busy_elsewhere() - before[1]
        results = {
            "repeats": repeats,
            "time": machine.now(),
            "machine": machine.describe(),
            "environment": {name: os.environ.get(name) for name in THREAD_VARIABLES},
            "versions": {one.package: one.version for one in everyone},
            "cores_busy_elsewhere": round(elsewhere / elapsed, 3),
            "results": measured,
        }
        (folder / f"{part}.json").write_text(json.dumps(results, indent=1) + "\n")
    found = {part: folder / f"{part}.json" for part in PARTS}
    text = tables.markdown(
        {part: json.loads(file.read_text()) for part, file in found.items() if file.exists()}
    )
    (folder / "benchmark.md").write_text(text)
    return text


def chosen_cells(names: Sequence[str]) -> list[Cell]:
    """Return cells of the grid by their names, "A" to "G"."""
    for name in names:
        if name not in GRID:
            raise ConfigError(f"{name!r} is no cell; these are: {', '.join(GRID)}")
    return [GRID[name] for name in names]


def _shorter(cells: Sequence[Cell]) -> list[Cell]:
    """Fewer batches a pass: some contenders are a hundred times slower beside a busy process."""
    return [replace(cell, n_batches=max(2, cell.n_batches // 4)) for cell in cells]


def _busy_elsewhere() -> float:
    """Seconds of processor time that others have used: not this process, nor its ended children.

    Not a number where /proc/stat does not tell.
    """
    try:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split()[1:9]
        )
    except (OSError, ValueError):
        return math.nan
    used = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used -= usage.ru_utime + usage.ru_stime
    return used


def _mnist_file(path: str | None) -> str:
    file = Path(path or Path(os.environ.get("MINIDL_DATA_DIR", ""), "mnist.npz"))
    if not file.is_file():
        raise DataError(f"{file}: no such file; set MINIDL_DATA_DIR to the folder of mnist.npz")
    return str(file)
