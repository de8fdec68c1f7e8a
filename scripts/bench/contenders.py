"""The contenders, each a program in `rivals`, and how the benchmark talks with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from minidl.blas import BLAS_VARIABLES

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Contender:
    """One column of the tables.

    package: the distribution that must be installed.  program: the module in `rivals`, with its
    arguments.  environment: variables for its process.  statement: what imports the library; for
    one contender of each library.  tool: a program that must be found on PATH.
    trains: whether it trains, and not only multiplies matrices.
    """

    name: str
    package: str
    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    statement: str | None = None
    tool: str | None = None
    trains: bool = True

    @property
    def version(self) -> str | None:
        """The version of its distribution, or None where it cannot run."""
        if self.tool is not None and shutil.which(self.tool) is None:
            return None
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start its program, which reads orders and prints answers."""
        module, *variant = self.program
        paths = [str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))
        return subprocess.Popen(
            [sys.executable, "-m", f"bench.rivals.{module}", *variant, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **self.environment},
        )


ONE_THREAD = dict.fromkeys(BLAS_VARIABLES, "1")
SKLEARN = "from sklearn.neural_network import MLPClassifier"
CONTENDERS = (
    Contender("minidl", "minidl", ("own",), statement="import minidl"),
    Contender("minidl NumPy only", "minidl", ("own",), {"MINIDL_KERNELS": "numpy"}),
    Contender("scikit-learn", "scikit-learn", ("sklearn_mlp",), statement=SKLEARN),
    Contender("PyTorch eager", "torch", ("pytorch",), statement="import torch"),
    Contender("torch.compile", "torch", ("pytorch", "compile"), tool="c++"),
    Contender("JAX jit", "jax", ("jax_jit",), statement="import jax.numpy"),
    Contender("JAX scan", "jax", ("jax_jit", "scan")),
    Contender("GEMMs 1 thread", "numpy", ("bare_numpy",), ONE_THREAD, trains=False),
    Contender("GEMMs all cores", "numpy", ("bare_numpy",), trains=False),
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
        self.name, self._process = contender.name, contender.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        self._process.communicate()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the answer of one of the functions in `child.COMMANDS`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps([command, arguments]), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{self.name} ended in {command!r}; its error stands above")
        return json.loads(answer)
