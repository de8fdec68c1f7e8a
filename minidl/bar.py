"""A progress bar, apart from `terminal.py`: tqdm's import takes a fifth of a short command."""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from minidl.terminal import width_of

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]"


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A bar on standard error that follows the width of the terminal and starts no thread.

    Its description comes first, so that a narrow terminal shows it too.  disable: None for a bar
    in a terminal alone.
    """

    monitor_interval = 0

    def __init__(self, *, leave: bool = False, **options: Any) -> None:
        super().__init__(bar_format=BAR, dynamic_ncols=True, leave=leave, **options)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return what writes a text over the one before, also where the window became narrower."""
        length = 0

        def write(text: str) -> None:
            nonlocal length
            shown = min(length, (width_of(file) or length + 1) - 1)
            file.write("\r" + text.ljust(shown))
            file.flush()
            length = len(text)

        return write
