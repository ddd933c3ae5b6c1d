"""TensorBoard curves, for training runs and other step-by-step processes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from sepnas.errors import StorageError
from sepnas.train.record import EpochRecord


class Scalars:
    """Writes scalars per step; purges an earlier run's data from ``first_step`` on.

    Without tensorboard or a folder it writes nothing; the run's own files hold the same numbers.
    """

    def __init__(self, folder: Path | None, first_step: int) -> None:
        self._folder, self._first_step = folder, first_step
        self._writer: Any = None
        self._hook = threading.excepthook

    def __enter__(self) -> Self:
        if self._folder is None:
            return self
        try:
            from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second
        except ImportError:
            return self
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_step)
        except OSError as error:
            raise self._unwritten(error) from error
        self._hook, threading.excepthook = threading.excepthook, self._told_of_thread
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as late:
            if error is None:
                raise self._unwritten(late) from late
        finally:
            threading.excepthook = self._hook

    def _told_of_thread(self, found: threading.ExceptHookArgs) -> None:
        """Silence tensorboard's writer thread, whose errors the next write raises; pass on all other exceptions."""
        if type(found.thread).__module__.partition(".")[0] != "tensorboard":
            self._hook(found)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> StorageError:
        return StorageError(f"{self._folder}: cannot be written: {error.strerror or error}")


class Curves(Scalars):
    """Four scalars per epoch of a training run."""

    def __init__(self, folder: Path | None, first_epoch: int) -> None:
        super().__init__(folder, first_epoch)

    def add(self, record: EpochRecord) -> None:
        scalars = {
            "loss/train": record.train_loss,
            "accuracy/validation": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "images_per_s": record.images_per_s,
        }
        self.write(record.epoch, scalars)
