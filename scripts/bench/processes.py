"""What is measured of whole processes: import time, and MNIST from start to finish."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.contenders import Contender
from bench.measurements import Times, take_turns


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


def mnist_races(
    contenders: Sequence[Contender], file: str, accuracy: float, repeats: int
) -> dict[str, Any]:
    """Train from the start of a process until it ends, whether it reached the accuracy or not.

    {"seconds": Times, "epochs": {contender: [...]}, "accuracy": {contender: [...]}}
    """
    racers = {one.name: one for one in contenders}
    epochs: dict[str, list[int]] = {name: [] for name in racers}
    reached: dict[str, list[float]] = {name: [] for name in racers}

    def measure(name: str) -> float:
        command = racers[name].command("race", file, str(accuracy))
        started = time.perf_counter()
        output = subprocess.check_output(command, text=True, env=racers[name].variables())
        seconds = time.perf_counter() - started
        result = json.loads(output)
        epochs[name].append(result["epochs"])
        reached[name].append(result["accuracy"])
        return seconds

    seconds = take_turns(list(racers), repeats, measure)
    return {"target": accuracy, "seconds": seconds, "epochs": epochs, "accuracy": reached}
