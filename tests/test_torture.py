"""The long proof: each of its experiments a few times, and many times in the slow tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torture

SCRIPT = Path(__file__).with_name("torture.py")
LONG = ("kills=60", "faults=40", "full_disk=20", "damage=20000", "fuzz=10000", "signals=30")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@needs_fork
def test_nothing_is_lost():
    done = run("--short")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any("8 runs" in line and "8 final models and records equal" in line for line in lines)
    assert len(lines) == 8 and all("[good, " in line for line in lines), done.stdout
    assert done.stderr == ""


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("experiment", [*LONG, "divergences"])
def test_nothing_is_lost_in_many_trials(experiment):
    done = run(experiment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(experiment.partition("=")[0]) and "[good, " in done.stdout


def test_an_unknown_experiment_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torture.py", "kilss=3"])
    with pytest.raises(SystemExit, match="2"):
        torture.main()
    assert "no experiment 'kilss=3'; there are kills, faults" in capsys.readouterr().err
