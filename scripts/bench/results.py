"""Measures the parts that are asked for and keeps the results in a folder.

FOLDER/PART.json    the raw figures of each repeat, with the machine, versions and settings
FOLDER/benchmark.md the tables of all parts that the folder holds
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import measurements, processes, tables, users
from bench.cells import GRID, GROWTH, Cell
from bench.contenders import Contender
from minidl.blas import THREAD_VARIABLES
from minidl.runs import machine

PARTS = ("steps", "busy", "fit", "prediction", "tabular", "growth", "memory", "imports", "mnist")
ACCURACY = 0.98
# OpenBLAS runs the kernel that the first one names, which may be slower than the processor's own.
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", *THREAD_VARIABLES)


def benchmark(
    folder: Path,
    contenders: Sequence[Contender],
    *,
    parts: Sequence[str] = PARTS,
    cells: Sequence[Cell] = (*GRID.values(),),
    repeats: int = 7,
    mnist: Path | None = None,
    announce: Callable[[str], None] = print,
) -> str:
    """Measure, write the results into `folder`, and return the tables.

    parts: names in PARTS.  mnist: path of mnist.npz, for the part of that name.
    """
    learners = [one for one in contenders if one.role != "floor"]
    measure: dict[str, Callable[[], Any]] = {
        "steps": lambda: measurements.steps(contenders, cells, repeats),
        "busy": lambda: measurements.steps(learners, _shorter(cells), repeats, busy=True),
        "fit": lambda: users.measure(users.fits(), repeats),
        "prediction": lambda: users.measure(users.predictions(), repeats),
        "tabular": lambda: users.measure(users.tables(), repeats),
        "growth": lambda: measurements.growth(contenders[0], GROWTH, repeats),
        "memory": lambda: measurements.peak_memory(learners, GRID["D"], repeats),
        "imports": lambda: processes.import_times(contenders, repeats),
        "mnist": lambda: processes.mnist_races(learners, str(mnist), ACCURACY, repeats),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        announce(f"{part} ...")
        before = time.monotonic(), _busy_elsewhere()
        measured = measure[part]()
        elapsed, elsewhere = time.monotonic() - before[0], _busy_elsewhere() - before[1]
        results = {
            "repeats": repeats,
            "time": machine.now(),
            "machine": machine.describe(),
            "environment": {name: os.environ.get(name) for name in VARIABLES},
            "versions": {one.package: one.version for one in contenders},
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


def _shorter(cells: Sequence[Cell]) -> list[Cell]:
    """Fewer batches a pass: some contenders are a hundred times slower beside a busy process."""
    return [replace(cell, n_batches=max(2, cell.n_batches // 4)) for cell in cells]


def _busy_elsewhere() -> float:
    """Seconds of processor time used by others than this process and its ended children.

    NaN where there is no /proc/stat.
    """
    try:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split()[1:9]
        )
    except (OSError, ValueError):
        return math.nan
    used = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return used - sum(os.times()[:4])
