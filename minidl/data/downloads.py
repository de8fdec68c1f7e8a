"""Data sets that scikit-learn downloads, fetched in a process of its own.

A name look-up or a connection that hangs cannot be interrupted from within a process, and
scikit-learn tries again after each failure; so one deadline over everything is kept by ending the
process that fetches.  The raw download stays in scikit-learn's cache: it happens once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np

from minidl.archive import read_arrays
from minidl.data.dataset import arrays_of
from minidl.errors import DataError

SILENCE = 15.0  # seconds
RETRIES: dict[str, Any] = {"n_retries": 2, "delay": 0.5}
MAX_BYTES = 2**34


def fetch(
    what: str, function: str, options: Mapping[str, Any], *, silence: float = SILENCE
) -> dict[str, np.ndarray]:
    """Return the arrays that scikit-learn's fetch function of this name gives for the options.

    Raises DataError, which names `what`, after `silence` seconds in which no byte arrived, whatever
    is being tried again by then, and for whatever else goes wrong.  A download that moves on is
    never cut off.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        command = [sys.executable, "-W", "ignore", "-m", __name__]
        command += [str(path), str(silence), function, json.dumps(options)]
        # The child finds what this process finds, however minidl was put on the path.
        search_path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise DataError(f"{what}: {lines[-1]}")
        return read_arrays(path, max_bytes=MAX_BYTES)


def openml(id: str, target: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of the OpenML data set with this name or number, read without pandas.

    X is uint8 where that holds the same numbers.  `target` names another column than the set's own.
    """
    options: dict[str, Any] = {"data_id": int(id)} if id.isdecimal() else {"name": id}
    options |= {"target_column": target or "default-target", "as_frame": False}
    return fetch(f"openml {id}", "openml", {**options, "parser": "liac-arff"})


def _fetched(function: str, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Download in this process."""
    from sklearn import datasets

    bunch = getattr(datasets, f"fetch_{function}")(**options, **RETRIES)
    if function == "species_distributions":
        points = np.concatenate([bunch.train, bunch.test])
        places = np.stack([points["dd long"], points["dd lat"]], axis=1).astype(np.float64)
        bunch = {"data": places, "target": points["species"].astype(str)}
        bunch["feature_names"] = ["longitude", "latitude"]
    elif function == "openml" and (bunch.target is None or bunch.target.size == 0):
        raise ValueError("the data set has no target of its own; name a column with `target`")
    arrays = arrays_of(bunch)
    if function == "covtype":  # whole numbers that float32 holds exactly, in half of the memory
        arrays["X"] = arrays["X"].astype(np.float32)
    elif function == "openml":
        with np.errstate(invalid="ignore"):
            if "X" in arrays and np.array_equal(small := arrays["X"].astype(np.uint8), arrays["X"]):
                arrays["X"] = small
        arrays.pop("target_names", None)  # names of columns, not of classes
    return arrays


def _size(folder: Path) -> int:
    """Bytes of all files in the folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _exit_when_silent(folder: Path, silence: float) -> None:
    """End this process once nothing was received or computed for `silence` seconds.

    Receiving shows as bytes in `folder`.  Parsing (half a minute for MNIST) shows as a second of
    processor time in other threads; a failed attempt to connect takes some hundredths of that.
    """
    size, busy, since = -1, 0.0, time.monotonic()
    while True:
        size_now, busy_now = _size(folder), time.process_time() - time.thread_time()
        if size_now != size or busy_now > busy + 1:
            size, busy, since = size_now, busy_now, time.monotonic()
        elif time.monotonic() > since + silence:
            print(f"no answer within {silence:g} s", file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(0.2)


def _main(path: str, silence: str, function: str, options: str) -> None:
    from sklearn.datasets import get_data_home

    if not os.path.isabs(os.path.expanduser("~")):  # scikit-learn would make a folder called ~
        os.environ.setdefault("SCIKIT_LEARN_DATA", os.path.join(gettempdir(), "scikit_learn_data"))
    folder = Path(get_data_home())
    watch = threading.Thread(target=_exit_when_silent, args=(folder, float(silence)), daemon=True)
    watch.start()
    try:
        np.savez(path, **_fetched(function, json.loads(options)))  # type: ignore[arg-type]
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
