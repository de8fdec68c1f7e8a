"""What is measured of whole processes: import time, installed size, MNIST from start to finish."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import minidl
from minidl.benchmark.children import Contender
from minidl.benchmark.measurements import Times, take_turns

RACES = Path(__file__).parent / "mnist_race"


def import_times(contenders: Sequence[Contender], repeats: int) -> Times:
    """Return the seconds that the import takes in a fresh process, its files in the page cache."""
    statements = {one.name: one.statement for one in contenders if one.statement}

    def measure(name: str) -> float:
        program = (
            "import time; started = time.perf_counter(); "
            f"{statements[name]}; print(time.perf_counter() - started)"
        )
        return float(subprocess.check_output([sys.executable, "-c", program], text=True))

    take_turns(list(statements), 1, measure)
    return take_turns(list(statements), repeats, measure)


def installed_sizes(contenders: Sequence[Contender]) -> dict[str, dict[str, int]]:
    """Return the bytes on disk of each contender's distribution and of each that it needs."""
    return {
        one.name: {name: _size(name) for name in sorted(_needed(one.package))}
        for one in contenders
        if one.statement
    }


def mnist_races(
    contenders: Sequence[Contender], file: str, accuracy: float, repeats: int
) -> dict[str, Any]:
    """Train from the start of a process until it ends, having reached the accuracy or not.

    {"seconds": Times, "epochs": {contender: [...]}, "accuracy": {contender: [...]}}
    """
    racers = {one.name: one for one in contenders if one.race}
    epochs: dict[str, list[int]] = {name: [] for name in racers}
    reached: dict[str, list[float]] = {name: [] for name in racers}

    def measure(name: str) -> float:
        racer = racers[name]
        command = [sys.executable, str(RACES / str(racer.race)), file, str(accuracy)]
        started = time.perf_counter()
        output = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=racer.variables()
        ).stdout
        seconds = time.perf_counter() - started
        result = json.loads(output.splitlines()[-1])
        epochs[name].append(result["epochs"])
        reached[name].append(result["accuracy"])
        return seconds

    seconds = take_turns(list(racers), repeats, measure)
    return {"target": accuracy, "seconds": seconds, "epochs": epochs, "accuracy": reached}


def _needed(package: str) -> set[str]:
    """The distributions that one needs, itself included, without its extras."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # needed on other platforms only
            continue
        found.add(name)
        for requirement in requirements:
            required = re.match(r"[\w.-]+", requirement)
            if required and not re.search(r"\bextra\s*==", requirement):
                waiting.append(required.group())
    return found


def _size(package: str) -> int:
    """The bytes of a distribution's files, without the bytecode that Python leaves beside them."""
    if package == "minidl":  # installed in place, it lists none of its modules
        files = [
            path
            for pattern in ("*.py", "*.json", "*.so", "*.pyd")
            for path in Path(minidl.__file__).parent.rglob(pattern)
        ]
    else:
        files = [Path(str(file.locate())) for file in distribution(package).files or []]
    return sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")
