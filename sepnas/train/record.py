"""The reports of a training run: a record per epoch, also in ``history.jsonl``, and the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sepnas.errors import TrainingError
from sepnas.spec.document import write_text

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, numbered from 1, with the mean loss of its steps and the learning rate of its last step.

    ``images_per_s`` excludes validation; ``duration_s`` includes it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    epoch: int
    train_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_s: float
    duration_s: float


@dataclass(frozen=True)
class TrainingResult:
    """``best_epoch`` has the highest validation accuracy (the last among equals); times include earlier, resumed runs.

    ``reached`` describes the position of the last checkpoint, such as ``step 340 of epoch 2``.
    """

    out_dir: Path
    finished: bool
    history: tuple[EpochRecord, ...]
    reached: str

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
        """The mean over the epochs, weighted by duration."""
        return len(self.history) / sum(1 / record.images_per_s for record in self.history)


def best_of(history: tuple[EpochRecord, ...]) -> EpochRecord:
    """The record with the highest validation accuracy, the last among equals."""
    return max(history, key=lambda record: (record.val_accuracy, record.epoch))


def history_to_data(history: tuple[EpochRecord, ...]) -> list[dict[str, Any]]:
    return [asdict(record) for record in history]


def write_history(run: Path, history: tuple[EpochRecord, ...]) -> None:
    """Write one JSON line per epoch; replaces the whole file."""
    write_text(run / HISTORY, "".join(json.dumps(line) + "\n" for line in history_to_data(history)))


def read_history(run: Path) -> tuple[EpochRecord, ...]:
    """The epochs of a run so far; raises :class:`TrainingError` that names the file and the faulty line."""
    path = run / HISTORY
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}; a training in {run} writes it after its first epoch") from None
    if not lines:
        raise TrainingError(f"{path}: is empty; resume the training to write it again")
    return tuple(_read_record(line, number, path) for number, line in enumerate(lines, start=1))


def _read_record(line: bytes, number: int, path: Path) -> EpochRecord:
    try:
        record = _RECORD.validate_json(line)
        problem = "" if record.epoch == number else f"is epoch {record.epoch}, expected {number}"
    except ValidationError as error:
        first = error.errors()[0]
        problem = " ".join([*(f"`{key}`:" for key in first["loc"]), first["msg"]])
    if problem:
        raise TrainingError(f"{path}: line {number}: {problem}; resume the training to write it again")
    return record


_RECORD = TypeAdapter(EpochRecord)
