"""scikit-learn's own tests of its MLP, from the installed wheel, with these estimators in place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# It unpacks and calls the private loss of scikit-learn's class. Gradients have their own tests.
LEFT_OUT = "test_gradient"


def test_scikit_learns_own_tests_pass():
    command = [sys.executable, "-m", "pytest", "-p", "sklearn_mlp_plugin", "--pyargs"]
    command += ["sklearn.neural_network.tests.test_mlp", "-k", f"not {LEFT_OUT}", "-q"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # their imports take a second
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    counts = re.search(r"(\d+) passed, 1 deselected", done.stdout)
    assert counts and int(counts[1]) >= 54, done.stdout[-300:]
