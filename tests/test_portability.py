"""Windows and macOS lack some modules and attributes: everything works without them."""

import os
import subprocess
import sys

import pytest

# Runs at the start of each Python process that has its folder on PYTHONPATH.
SITECUSTOMIZE = """
import asyncio  # joblib needs it, and on POSIX systems it needs what is taken away
import os
import signal
import sys

for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD"):
    delattr(signal, name)
for name in ("fork", "sysconf", "register_at_fork", "sched_getaffinity", "getuid", "geteuid"):
    delattr(os, name)
# A shell starts background jobs with SIGINT ignored; the tests may be one.
signal.signal(signal.SIGINT, signal.default_int_handler)
"""

PROGRAM = """
import json
import os
import signal
import sys

import numpy as np
import minidl
from minidl import cli
from minidl.config import load_config
from minidl.estimators import MLPClassifier
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.machine import peak_memory_bytes
from minidl.runs.run import Run

assert not hasattr(os, "sysconf") and peak_memory_bytes() is None
with RunFolder.create(".", "x", "stopped") as folder:
    with Run(Experiment(load_config("digits.yaml")), folder) as run:
        for n, _ in enumerate(run.steps()):
            if n == 5:
                signal.raise_signal(signal.SIGINT)
        assert run.stopped_by == signal.SIGINT
assert cli.main(["train", "--resume", "stopped"]) == 0
assert cli.main(["train", "digits.yaml", "--out", "whole"]) == 0
assert open("stopped/model.npz", "rb").read() == open("whole/model.npz", "rb").read()
assert json.load(open("whole/run.json"))["peak_memory_bytes"] is None
assert cli.main(["sweep", "digits.yaml", "train.epochs=1,2", "--seeds", "1", "--out", "swept"]) == 0
assert cli.main(["gradcheck", "digits.yaml"]) == 0
X = np.zeros((3, 64))
assert minidl.load("whole/model.npz").predict(X).shape == (3,)
MLPClassifier((4,), max_iter=2, tol=10.0).fit(X, [0, 1, 1]).predict(X)
print("done")
"""

CONFIG = """
data: {name: digits, preprocessing: standard}
model: [linear: 8, relu, linear: auto]
train: {epochs: 3, batch_size: 16, optimizer: {name: sgd, learning_rate: 0.1}}
output: {report: false}
"""


@pytest.mark.skipif(os.name != "posix", reason="the real thing runs there")
def test_everything_works_without_what_other_systems_lack(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (tmp_path / "digits.yaml").write_text(CONFIG)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
