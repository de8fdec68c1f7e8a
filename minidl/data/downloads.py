"""Data sets that scikit-learn downloads, with one deadline over everything.

A name look-up or a connection that hangs cannot be interrupted, and scikit-learn tries again after
each failure.  So a thread fetches, and is left alone once nothing arrives any more.  The raw
download stays in scikit-learn's cache: it happens once.
"""

import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from minidl.errors import DataError

SILENCE = 15.0  # seconds
RETRIES: dict[str, Any] = {"n_retries": 2, "delay": 0.5}


def fetch(
    what: str, function: str, options: Mapping[str, Any], *, silence: float = SILENCE
) -> dict[str, Any]:
    """Return what scikit-learn's fetch function of this name does for the options.

    Raises DataError, which names `what`, after `silence` seconds in which no byte arrived, whatever
    is being tried again by then, and for whatever else goes wrong.  A download that moves on is
    never cut off.
    """
    from sklearn import datasets

    folder = os.path.expanduser(os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data"))
    if folder.startswith("~"):  # there is no home, and scikit-learn would make a folder called ~
        folder = os.path.join(gettempdir(), "scikit_learn_data")
    call, found = getattr(datasets, f"fetch_{function}"), list[Any]()

    def work() -> None:
        try:
            found.append(call(**options, **RETRIES, data_home=folder))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        thread.start()
        if not _ends(thread, Path(folder), silence):
            raise DataError(f"{what}: no answer within {silence:g} s")
    (answer,) = found
    if isinstance(answer, Exception):
        reason = " ".join(str(answer).split()) or type(answer).__name__
        raise DataError(f"{what}: {reason}") from answer
    return dict(answer)


def openml(id: str, target: str | None = None) -> dict[str, Any]:
    """Return the data and target of the OpenML set with this name or number, read without pandas.

    `target` names another column than the set's own.
    """
    options: dict[str, Any] = {"data_id": int(id)} if id.isdecimal() else {"name": id}
    options |= {"target_column": target or "default-target", "as_frame": False}
    found = fetch(f"openml {id}", "openml", {**options, "parser": "liac-arff"})
    if found["target"] is None or found["target"].size == 0:
        reason = "the data set has no target of its own; name a column with `target`"
        raise DataError(f"openml {id}: {reason}")
    return {key: found[key] for key in ("data", "target", "feature_names")}


def _ends(thread: threading.Thread, folder: Path, silence: float) -> bool:
    """Wait for a thread; return False once nothing was received or computed for `silence` seconds.

    Receiving shows as bytes in `folder`.  Parsing (half a minute for MNIST) shows as a second of
    processor time in other threads; a failed attempt to connect takes some hundredths of that.
    """
    size, busy, since = -1, 0.0, time.monotonic()
    while thread.is_alive():
        size_now, busy_now = 0, time.process_time() - time.thread_time()
        for file in folder.rglob("*"):
            with suppress(OSError):  # one that vanishes meanwhile counts nothing
                size_now += file.stat().st_size
        if size_now != size or busy_now > busy + 1:
            size, busy, since = size_now, busy_now, time.monotonic()
        elif time.monotonic() > since + silence:
            return False
        thread.join(0.2)
    return True
