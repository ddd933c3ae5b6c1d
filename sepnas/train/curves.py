"""TensorBoard curves of a training run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from sepnas.errors import StorageError
from sepnas.train.record import EpochRecord


class Curves:
    """Four scalars an epoch; what an earlier run wrote from ``first_epoch`` on is purged.

    Without tensorboard installed nothing is drawn: ``history.jsonl`` holds the same numbers.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self._folder, self._first_epoch = folder, first_epoch
        self._writer: Any = None

    def __enter__(self) -> Curves:
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes a second: only those who train wait
        except ImportError:
            return self
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_epoch)
        except OSError as error:
            raise StorageError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, record: EpochRecord) -> None:
        if self._writer is None:
            return
        scalars = {
            "loss/train": record.train_loss,
            "accuracy/validation": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "images_per_s": record.images_per_s,
        }
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, record.epoch)
            self._writer.flush()
        except OSError as error:
            raise StorageError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
