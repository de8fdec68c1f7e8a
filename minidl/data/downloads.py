"""Data sets that scikit-learn downloads, fetched in a process of its own.

A name look-up or a connection that hangs cannot be interrupted from within a process, and
scikit-learn tries again after each failure; so one deadline over everything is kept by ending the
process that fetches.  The raw download stays in scikit-learn's cache: it happens once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from minidl.archive import read_arrays
from minidl.errors import DataError

SILENCE = 15.0  # seconds
RETRIES: dict[str, Any] = {"n_retries": 2, "delay": 0.5}
MAX_BYTES = 2**34


def fetch(source: str, *arguments: str, silence: float = SILENCE) -> dict[str, np.ndarray]:
    """Return the arrays that the function of this name in `DOWNLOADS` gives for the arguments.

    Raises DataError after `silence` seconds in which no byte arrived, whatever is being tried again
    by then, and for whatever else goes wrong.  A download that moves on is never cut off.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        command = [sys.executable, "-W", "ignore", "-m", __name__]
        command += [str(path), str(silence), source, *arguments]
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
            raise DataError(f"{' '.join([source, *arguments[:1]])}: {lines[-1]}")
        return read_arrays(path, max_bytes=MAX_BYTES)


def openml(id: str, target: str = "") -> dict[str, np.ndarray]:
    """The OpenML data set with this name or number, read without pandas.

    X (n_samples, n_features), float64 or, where that holds the same numbers, uint8; for a sparse
    set its CSR parts X_data, X_indices, X_indptr and X_shape.  y, text for classes and float64 for
    a regression.  feature_names.  `target` names another column than the set's own target.
    """
    from sklearn.datasets import fetch_openml

    which: dict[str, Any] = {"data_id": int(id)} if id.isdecimal() else {"name": id}
    bunch = fetch_openml(
        **which,
        target_column=target or "default-target",
        as_frame=False,
        parser="liac-arff",
        **RETRIES,
    )
    if bunch.target is None or bunch.target.size == 0:
        raise ValueError("the data set has no target of its own; name a column with `target`")
    y = np.asarray(bunch.target)
    # scikit-learn hands out class labels as objects, which only pickle can store.
    arrays = {"y": y.astype(str) if y.dtype == object else y}
    arrays["feature_names"] = np.array(bunch.feature_names, dtype=str)
    X = bunch.data
    if isinstance(X, np.ndarray):
        X = np.asarray(X, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            small = X.astype(np.uint8)
        arrays["X"] = small if np.array_equal(small, X) else X
    else:
        X = X.tocsr()
        arrays |= {"X_data": X.data, "X_indices": X.indices, "X_indptr": X.indptr}
        arrays["X_shape"] = np.array(X.shape)
    return arrays


def california() -> dict[str, np.ndarray]:
    """X (n_samples, 8) and y (n_samples,), float64, and feature_names."""
    from sklearn.datasets import fetch_california_housing

    bunch = fetch_california_housing(**RETRIES)
    return {"X": bunch.data, "y": bunch.target, "feature_names": np.array(bunch.feature_names)}


def covtype() -> dict[str, np.ndarray]:
    """X (n_samples, 54) float32, y (n_samples,) of labels from 1, and feature_names.

    All are whole numbers below 2**24, which float32 holds exactly, in half of the memory.
    """
    from sklearn.datasets import fetch_covtype

    bunch = fetch_covtype(**RETRIES)
    X = bunch.data.astype(np.float32)
    return {"X": X, "y": bunch.target, "feature_names": np.array(bunch.feature_names)}


DOWNLOADS: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "openml": openml,
    "california": california,
    "covtype": covtype,
}
# Where in scikit-learn's cache the bytes of each arrive.
FOLDERS = {"openml": "openml", "california": "", "covtype": "covertype"}


def _size(folder: Path) -> int:
    """Bytes of all files in the folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue
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


def _main(path: str, silence: str, source: str, *arguments: str) -> None:
    from sklearn.datasets import get_data_home

    folder = Path(get_data_home(), FOLDERS[source])
    watch = threading.Thread(target=_exit_when_silent, args=(folder, float(silence)), daemon=True)
    watch.start()
    try:
        np.savez(path, **DOWNLOADS[source](*arguments))  # type: ignore[arg-type]
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
