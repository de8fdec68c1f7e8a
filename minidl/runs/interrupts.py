"""Signals that end a run: the first one asks, the second one kills."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While active, the first SIGINT or SIGTERM is only noted, in `received`.

    The loop looks at it between two steps. The next signal then has its usual effect, at once,
    whatever the loop is doing. Signals that the process was started to ignore stay ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
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
            signal.signal(each, signal.SIG_DFL)
