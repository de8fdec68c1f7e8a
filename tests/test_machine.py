"""What a run ran on is told in plain values."""

import json
import subprocess
import sys
from datetime import datetime

import numpy as np

from minidl.memory import memory_bytes
from minidl.runs import machine


def test_the_machine_is_described_in_what_json_knows():
    found = json.loads(json.dumps(machine.describe()))
    assert found["numpy"] == np.__version__
    assert found["blas"] and found["processor"] and found["cores"] >= 1
    assert found["kernels"] in ("compiled", "numpy")
    assert found["products_on"] in ("crew", "threads of the BLAS")


def test_it_says_when_the_code_of_the_blas_was_chosen_by_the_environment(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert "OPENBLAS_CORETYPE" not in machine.describe()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert machine.describe()["OPENBLAS_CORETYPE"] == "Haswell"


def test_memory_is_measured_in_bytes():
    before = machine.peak_memory_bytes()
    block = np.ones(2**25)
    assert block.nbytes // 2 < machine.peak_memory_bytes() < memory_bytes()
    assert machine.peak_memory_bytes() >= before
    code = "from minidl.runs.machine import peak_memory_bytes; print(peak_memory_bytes())"
    child = subprocess.check_output([sys.executable, "-c", code])
    assert 5_000_000 < int(child) < block.nbytes  # not what its parent holds


def test_the_time_of_day_has_its_zone():
    assert datetime.fromisoformat(machine.now()).utcoffset().total_seconds() == 0
