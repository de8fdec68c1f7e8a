"""Signals that end a run: the first one asks, the second one kills."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

# SIGHUP: the terminal was closed. Windows has no SIGHUP, and SIGBREAK for Ctrl-Break.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupts:
    """While active, the first of SIGNALS is only noted, in `received`.

    The loop looks at it between two steps. The next signal then has its usual effect at once.
    Signals that the process was started to ignore stay ignored, and so does another SIGHUP: a
    terminal that closes sends one, and its shell sends another.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._former:
            hangup = each == number and signal.Signals(each).name == "SIGHUP"
            signal.signal(each, signal.SIG_IGN if hangup else signal.SIG_DFL)


def signal_name(number: int) -> str:
    """The name of a signal: SIGTERM for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def stop_with_standard_input() -> None:
    """Raise SIGTERM in this process when its standard input ends: its parent closed it or died."""

    def watch() -> None:
        # Not through sys.stdin, which a waiting thread keeps locked at exit.
        while os.read(0, 4096):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
