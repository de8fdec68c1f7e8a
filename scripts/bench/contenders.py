"""The contenders, and the parent's side of the conversation with each."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from bench.cells import Cell
from minidl.blas import BLAS_VARIABLES

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Contender:
    """One column of the tables.

    role: "minidl", "rival" or "floor".  package: the distribution that must be installed.
    program: the module in `rivals`, with its arguments.  environment: variables for its process.
    statement: what imports the library; for one contender of each library.  tool: a program that
    must be found on PATH.
    """

    name: str
    role: str
    package: str
    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    statement: str | None = None
    tool: str | None = None

    @property
    def version(self) -> str | None:
        """The version of its distribution, or None where it cannot run."""
        if self.tool is not None and shutil.which(self.tool) is None:
            return None
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def command(self, *arguments: str) -> list[str]:
        """Return the command that starts its program."""
        module, *variant = self.program
        return [sys.executable, "-m", f"bench.rivals.{module}", *variant, *arguments]

    def variables(self) -> dict[str, str]:
        """Return the environment for its process."""
        paths = [str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))
        return {**os.environ, "PYTHONPATH": path, **self.environment}


ONE_THREAD = dict.fromkeys(BLAS_VARIABLES, "1")
SKLEARN = "from sklearn.neural_network import MLPClassifier"
CONTENDERS = (
    Contender("minidl", "minidl", "minidl", ("own",), statement="import minidl"),
    Contender("minidl NumPy only", "minidl", "minidl", ("own",), {"MINIDL_KERNELS": "numpy"}),
    Contender("scikit-learn", "rival", "scikit-learn", ("sklearn_mlp",), statement=SKLEARN),
    Contender("PyTorch eager", "rival", "torch", ("pytorch",), statement="import torch"),
    Contender("torch.compile", "rival", "torch", ("pytorch", "compile"), tool="c++"),
    Contender("JAX jit", "rival", "jax", ("jax_jit",), statement="import jax.numpy"),
    Contender("JAX scan", "rival", "jax", ("jax_jit", "scan")),
    Contender("GEMMs 1 thread", "floor", "numpy", ("bare_numpy",), ONE_THREAD),
    Contender("GEMMs all cores", "floor", "numpy", ("bare_numpy",)),
)
NAMES = {contender.name: contender for contender in CONTENDERS}


def installed(names: Sequence[str] = (*NAMES,)) -> list[Contender]:
    """Return those of the named contenders that can run here."""
    return [NAMES[name] for name in names if NAMES[name].version is not None]


class Child:
    """A contender's program at work, told what to do by one line at a time.

    Between its turns it waits for a line and uses no processor.
    """

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            contender.command(),
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

    def peak_memory(self) -> int:
        """Return the most bytes that the process has held."""
        return int(self._ask("peak_memory"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        order = json.dumps({"command": command, **arguments})
        try:
            print(order, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise RuntimeError(f"{self.contender.name} ended in {command!r}: {''.join(last)}")
        return json.loads(answer)
