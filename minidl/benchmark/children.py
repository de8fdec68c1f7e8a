"""The contenders, and the parent's side of the conversation with each."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self

from minidl.benchmark.cells import Cell
from minidl.blas import BLAS_VARIABLES
from minidl.errors import ConfigError


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    package: the distribution that must be installed.  program: the module under `contenders`, with
    its arguments.  role: "minidl", "rival", "floor", or "other" for what is shown but not compared
    with.  environment: variables that its process gets.  race: the file under `mnist_race`.
    statement: what imports it.
    """

    name: str
    role: str
    package: str
    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    race: str | None = None
    statement: str | None = None

    @property
    def version(self) -> str | None:
        """The version of its distribution, None where that is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def variables(self) -> dict[str, str]:
        """Return the environment for its process."""
        return {**os.environ, **self.environment}


CONTENDERS = (
    Contender(
        "minidl",
        "minidl",
        "minidl",
        ("own",),
        race="own.py",
        statement="import minidl",
    ),
    Contender(
        "minidl NumPy only",
        "minidl",
        "minidl",
        ("own",),
        {"MINIDL_KERNELS": "numpy"},
        race="own.py",
    ),
    Contender(
        "scikit-learn",
        "rival",
        "scikit-learn",
        ("sklearn_mlp",),
        race="sklearn_mlp.py",
        statement="from sklearn.neural_network import MLPClassifier",
    ),
    Contender(
        "PyTorch eager",
        "rival",
        "torch",
        ("torch_eager",),
        race="torch_eager.py",
        statement="import torch",
    ),
    Contender(
        "JAX jit",
        "rival",
        "jax",
        ("jax_jit",),
        race="jax_jit.py",
        statement="import jax.numpy",
    ),
    Contender("JAX scan", "other", "jax", ("jax_jit", "scan")),
    Contender(
        "GEMMs 1 thread",
        "floor",
        "numpy",
        ("bare_numpy",),
        dict.fromkeys(BLAS_VARIABLES, "1"),
    ),
    Contender("GEMMs all cores", "floor", "numpy", ("bare_numpy",)),
)


def chosen_contenders(names: Sequence[str] | None = None) -> list[Contender]:
    """Return those that are installed, of all or of some; raise ConfigError for a wrong name."""
    known = {contender.name: contender for contender in CONTENDERS}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"{name!r} is no contender; these are: {', '.join(known)}")
    return [known[name] for name in names or known if known[name].version is not None]


class Child:
    """A contender's program at work, told what to do by one line at a time.

    Between its turns it waits for a line and uses no processor.
    """

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"minidl.benchmark.contenders.{contender.program[0]}",
                *contender.program[1:],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=contender.variables(),
        )

    def prepare(self, cell: Cell) -> dict[str, Any]:
        """Get ready for a cell; return the contender's own settings for it."""
        settings: dict[str, Any] = self._ask("prepare", **dataclasses.asdict(cell))
        return settings

    def train(self, n_batches: int, warm_up: int) -> float:
        """Return the seconds a step over so many, after some that are not counted."""
        return float(self._ask("train", n_batches=n_batches, warm_up=warm_up))

    def predict(self, n_rows: int, n_in: int) -> float:
        """Return the seconds of one forward pass."""
        return float(self._ask("predict", x=[n_rows, n_in]))

    def peak_memory(self) -> int:
        """Return the most bytes that the process has held."""
        return int(self._ask("peak_memory"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(
                json.dumps({"command": command, **arguments}),
                file=self._process.stdin,
                flush=True,
            )
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise RuntimeError(f"{self.contender.name} ended in {command!r}: {''.join(last)}")
        return json.loads(answer)
