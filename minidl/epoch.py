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
        self.train, self.validation = dict(train), dict(validation)
        self.seconds, self.improved = seconds, improved
        self._row: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "learning_rate": learning_rate,
            **{f"train_{name}": value for name, value in train.items()},
            **{f"validation_{name}": value for name, value in validation.items()},
            "seconds": seconds,
            "improved": improved,
        }

    def __getitem__(self, column: str) -> Any:
        return self._row[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __repr__(self) -> str:
        short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in self._row.items()}
        return f"Epoch({', '.join(f'{name}={value}' for name, value in short.items())})"
