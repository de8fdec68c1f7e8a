"""What one epoch of a training gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Epoch(Mapping[str, Any]):
    """What one epoch gave: attributes, and a row of a table, as in `pandas.DataFrame(epochs)`.

    epoch: from 1.  step: steps made since the start.  learning_rate: of the last step.
    train, validation: "loss" and the metrics of the loss function, by name. The training loss is
    the mean over the batches of the epoch, each before its step; metrics of training rows are
    there only where asked for. `validation` is empty without validation rows.
    seconds: of training and validation.  improved: whether these are the best weights so far.

    As a row, `epoch["validation_loss"]` is `epoch.validation["loss"]`.
    """

    # Not a data class: pandas before 3.1 would take its fields for the columns.
    def __init__(
        self,
        epoch: int,
        step: int,
        learning_rate: float,
        train: Mapping[str, float],
        validation: Mapping[str, float],
        seconds: float,
        improved: bool,
    ) -> None:
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate
        self.train, self.validation = train, validation
        self.seconds, self.improved = seconds, improved

    def __getitem__(self, column: str) -> Any:
        return self._row()[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row())

    def __len__(self) -> int:
        return len(self._row())

    def __repr__(self) -> str:
        short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in self.items()}
        return f"Epoch({', '.join(f'{name}={value}' for name, value in short.items())})"

    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            parts = value if isinstance(value, Mapping) else None
            row |= {name: value} if parts is None else {f"{name}_{k}": v for k, v in parts.items()}
        return row
