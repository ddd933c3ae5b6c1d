"""What a training run reports: a record of each epoch, and the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepnas.spec.document import write_text


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, numbered from 1: the mean loss of its steps, the learning rate of its last step.

    ``images_per_s`` counts training only; ``duration_s`` includes validation.
    """

    epoch: int
    train_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_s: float
    duration_s: float


@dataclass(frozen=True)
class TrainingResult:
    """``best_epoch`` has the highest validation accuracy (the last of equals); times add up over resumed runs."""

    out_dir: Path
    finished: bool
    history: tuple[EpochRecord, ...]

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def best(self) -> EpochRecord:
        return best_of(self.history)

    @property
    def best_epoch(self) -> int:
        return self.best.epoch

    @property
    def best_accuracy(self) -> float:
        return self.best.val_accuracy

    @property
    def duration_s(self) -> float:
        return sum(record.duration_s for record in self.history)

    @property
    def images_per_s(self) -> float:
        """The mean over the epochs, each weighing what it took."""
        return len(self.history) / sum(1 / record.images_per_s for record in self.history)


def best_of(history: tuple[EpochRecord, ...]) -> EpochRecord:
    """The last record of the highest validation accuracy."""
    return max(history, key=lambda record: (record.val_accuracy, record.epoch))


def history_to_data(history: tuple[EpochRecord, ...]) -> list[dict[str, Any]]:
    return [asdict(record) for record in history]


def write_history(path: Path, history: tuple[EpochRecord, ...]) -> None:
    """One JSON line for each epoch; the file is replaced whole."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in history_to_data(history)))
