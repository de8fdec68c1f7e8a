"""metrics.csv: one line an epoch, under a header that names the columns."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minidl.atomic import replace_file, sync_folder
from minidl.errors import CheckpointError
from minidl.progress import Epoch


class Metrics:
    """The file at `path`; its methods raise CheckpointError where the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, epoch: Epoch) -> None:
        """Add the line of one epoch; a header that is missing or damaged is written again."""
        row = {name: value for name, value in epoch.items() if name != "improved"}
        row["seconds"] = round(epoch.seconds, 4)
        header = ",".join(row) + "\n"
        with self._errors("write"):
            with open(self.path, "a+", newline="", encoding="utf-8", errors="replace") as file:
                file.seek(0)
                found = file.readline()
                if not found:
                    file.write(header)
                csv.DictWriter(file, row, lineterminator="\n").writerow(row)
            if not found:
                sync_folder(self.path.parent)
            elif found != header:
                self._write([header.encode(), *filter(_is_row, self._lines())])

    def read(self) -> list[dict[str, str]]:
        """The rows. Raises OSError or ValueError for a file that cannot be read."""
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def sync(self) -> None:
        """Make the lines durable: a checkpoint that follows relies on them."""
        with self._errors("write"), suppress(FileNotFoundError), open(self.path, "rb+") as file:
            os.fsync(file.fileno())

    def cut(self, step: int) -> None:
        """Keep the epochs that ended up to `step`; what was trained after it is trained again."""
        lines: list[bytes] = []
        with self._errors("read"), suppress(FileNotFoundError):
            lines = self._lines()
        header = [line for line in lines[:1] if not _is_row(line)]
        kept = [line for line in lines if _is_row(line) and int(line.split(b",")[1]) <= step]
        if lines and not kept:
            self.path.unlink()
        elif header + kept != lines:
            self._write(header + kept)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def _write(self, lines: list[bytes]) -> None:
        replace_file(self.path, lambda file: file.writelines(lines))

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot {action} {self.path}: {error.strerror}") from error


def _is_row(line: bytes) -> bool:
    """Whether this is a complete line of an epoch: no header, and not cut short by a crash."""
    fields = line.split(b",")
    return line.endswith(b"\n") and len(fields) > 2 and fields[0].isdigit() and fields[1].isdigit()
