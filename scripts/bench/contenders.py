"""The contenders, each a program in `rivals`, and how the benchmark talks with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minidl.blas import BLAS_VARIABLES

# The modules of a checkout are compiled once, as those of installed packages were.
COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}


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

    @contextmanager
    def at_work(self) -> Iterator[Callable[[Any], Any]]:
        """Start its process; yield what hands it an order of `child.main` and gives the answer.

        Between orders it waits for a line and uses no processor.
        """

        def ask(order: Any) -> Any:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            if not (answer := process.stdout.readline()):
                raise RuntimeError(f"{self.name} ended; its error stands above")
            return json.loads(answer)

        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))
        module, *arguments = self.program
        with subprocess.Popen(
            [sys.executable, "-m", f"bench.rivals.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **COMPILED_ONCE, "PYTHONPATH": path, **self.environment},
        ) as process:
            try:
                yield ask
            except BaseException:
                process.kill()
                raise


ONE_THREAD = dict.fromkeys(BLAS_VARIABLES, "1")
SKLEARN = "from sklearn.neural_network import MLPClassifier"
CONTENDERS = {
    contender.name: contender
    for contender in (
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
}
