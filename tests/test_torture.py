"""The long proof in short: each of its experiments, a few times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "torture.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks")
def test_nothing_is_lost():
    done = run("--short")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any("20 runs" in line and "20 final models and records equal" in line for line in lines)
    assert len(lines) == 8 and all("[good, " in line for line in lines), done.stdout
    assert done.stderr == ""


def test_an_unknown_experiment_is_refused():
    done = run("kilss=3")
    assert (
        done.returncode == 2 and "no experiment 'kilss=3'; there are kills, faults" in done.stderr
    )
