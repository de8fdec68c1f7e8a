"""Measures the parts that are asked for and keeps the results in a folder, with their tables.

FOLDER/PART.json    the figures of each repeat, with the machine, versions and settings
FOLDER/benchmark.md the tables of all parts that the folder holds
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from bench import measurements, scaling, users
from bench.measurements import Plan, Results, Times, ratios
from minidl.blas import THREAD_VARIABLES
from minidl.runs import machine

# OpenBLAS runs the kernel that the first one names, which may be slower than the processor's own.
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", *THREAD_VARIABLES)

# Of each part: what its table says, the factor of its figures, and what measures it.
PARTS: dict[str, tuple[str, float, Callable[[Plan], Results]]] = {
    "steps": ("One training step, microseconds", 1e6, measurements.steps),
    "busy": ("Time of a step beside a busy process, by its time alone", 1.0, measurements.busy),
    "fit": ("Fit of the estimators, milliseconds", 1e3, partial(users.measure, users.fits)),
    "prediction": (
        "Probabilities, microseconds",
        1e6,
        partial(users.measure, users.predictions),
    ),
    "growth": ("Growth with rows and width", 1.0, measurements.growth),
    "memory": ("Peak memory of a process that trains, MB", 1e-6, measurements.memory),
    "imports": ("Import time, seconds", 1.0, measurements.imports),
    "mnist": ("From the start of a process to its end, seconds", 1.0, measurements.races),
    "ranks": ("Ranks of an MPI job and threads of one process", 1.0, scaling.ranks),
    "disk": ("Training from memory and from the disk, rows a second", 1.0, scaling.disk),
}


def benchmark(
    folder: Path, plan: Plan, parts: Sequence[str], announce: Callable[[str], None]
) -> str:
    """Measure the parts, write the results into `folder`, and return all its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        announce(f"{part} ...")
        before = time.monotonic(), _busy_elsewhere()
        measured, noted = PARTS[part][2](plan)
        elapsed, elsewhere = time.monotonic() - before[0], _busy_elsewhere() - before[1]
        results = {
            "repeats": plan.repeats,
            "time": machine.now(),
            "machine": machine.describe(),
            "environment": {name: os.environ.get(name) for name in VARIABLES},
            "versions": {one.package: one.version for one in plan.contenders},
            "cores_busy_elsewhere": round(elsewhere / elapsed, 3),
            "results": measured,
            "notes": noted,
        }
        (folder / f"{part}.json").write_text(json.dumps(results, indent=1) + "\n")
    files = {part: folder / f"{part}.json" for part in PARTS}
    text = markdown(
        {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    )
    (folder / "benchmark.md").write_text(text)
    return text


def _busy_elsewhere() -> float:
    """Seconds of processor time used by others than this process and its ended children.

    NaN where there is no /proc/stat.
    """
    try:
        fields = Path("/proc/stat").read_text().split()[1:9]
    except OSError:
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    used = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return used - sum(os.times()[:4])


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables; `found` holds what was read from each part's file, by name."""
    sections = []
    for name, one in found.items():
        title, factor, _ = PARTS[name]
        sections += [f"### {title}", table(one["results"], factor)]
        sections += ["\n".join(f"- {who}: {note}" for who, note in one["notes"].items())]
    return "\n\n".join([*filter(None, sections), _conditions(found)]) + "\n"


def table(results: Mapping[str, Times], factor: float) -> str:
    """Return a row for each case: medians, and minidl's time by that of the best rival."""
    names = list(next(iter(results.values())))
    rivals = [name for name in names if not name.startswith(("minidl", "GEMMs"))]
    groups = {"minidl by the best rival": rivals}
    if "JAX scan" in rivals:
        groups["without JAX scan"] = [name for name in rivals if name != "JAX scan"]
    if "minidl" not in names or not rivals:
        groups = {}
    shares: dict[str, list[float]] = {title: [] for title in groups}
    rows = [["", *names, *groups], ["---"] * (1 + len(names) + len(groups))]
    for case, times in results.items():
        for title, members in groups.items():
            best = min((times[name] for name in members), key=median)
            shares[title].append(median(ratios(times["minidl"], best)))
        figures = [factor * median(times[name]) for name in names]
        digits = (f"{each:.3g}" if each < 100 else f"{each:,.0f}" for each in figures)
        rows.append([case, *digits, *(f"{each[-1]:.2f}" for each in shares.values())])
    means = [f"{geometric_mean(each):.2f}" for each in shares.values()]
    if means and len(results) > 1:
        rows.append(["geometric mean", *[""] * len(names), *means])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _conditions(found: Mapping[str, Mapping[str, Any]]) -> str:
    part = next(iter(found.values()))
    described, versions = part["machine"], part["versions"]
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    variables = [f"{name}={value}" for name, value in part["environment"].items() if value]
    runs = ", ".join(
        f"{name} {one['repeats']} ({one['cores_busy_elsewhere']:.2f})"
        for name, one in found.items()
    )
    return (
        f"{described['processor']}, {described['cores']} cores, Python {described['python']}, "
        f"{libraries}; NumPy's BLAS runs the code for {described['blas_core']}.  \n"
        f"Set in the environment: {', '.join(variables) or 'nothing'}.  \n"
        f"Medians over repeats; in brackets the cores that other processes used: {runs}.  \n"
        "Ratios are the median over the repeats of the ratio in each."
    )
