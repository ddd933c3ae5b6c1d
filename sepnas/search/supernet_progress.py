"""The progress of the supernet's training in the search's display, also after a resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from sepnas.search.progress import ProgressDisplay, SupernetProgress
from sepnas.spec.files import is_there
from sepnas.train.record import HISTORY, EpochRecord, read_history
from sepnas.train.run_files import steps_begun
from sepnas.train.steps import Step


class CountedStep:
    """A training step that reports progress to the display; the run in ``folder`` has ``epochs`` of ``steps`` each.

    The progress of an interrupted training is read from the folder before the first step.
    """

    def __init__(self, step: Step, folder: Path, steps: int, epochs: int, display: ProgressDisplay) -> None:
        self.step, self.folder, self.steps, self.epochs, self.display = step, folder, steps, epochs, display
        self._history: Sequence[EpochRecord] = ()
        self._before = self._taken = 0
        """Steps taken in the current epoch: by the interrupted training, and in total."""
        self._began: float | None = None

    def __call__(self, network: nn.Module, images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> Tensor:
        if self._began is None:
            self._begin_epoch(steps_begun(self.folder))
        elif self._taken == self.steps:
            self._begin_epoch(0)
        loss = self.step(network, images_BCHW, labels_B, generator)
        self._taken += 1
        if self._taken < self.steps:  # a complete epoch counts only after it is validated and saved
            self._tell()
        return loss

    def finish(self, history: Sequence[EpochRecord]) -> None:
        """Report the end of the training, with its history, unless it took no step."""
        if self._taken:
            self._history, self._taken = history, 0
            self._tell()

    def _begin_epoch(self, taken: int) -> None:
        self._history = read_history(self.folder) if is_there(self.folder / HISTORY) else ()
        self._before = self._taken = taken
        self._began = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        done, part = len(self._history), self._taken / self.steps
        accuracy = self._history[-1].val_accuracy if self._history else None
        epoch_s = self._epoch_s() if done < self.epochs else None
        left_s = None if epoch_s is None else (self.epochs - done - part) * epoch_s
        self.display.show_supernet(SupernetProgress(done, part, self.epochs, accuracy, left_s))

    def _epoch_s(self) -> float | None:
        """Seconds per epoch: the mean of earlier epochs, or extrapolated from the first epoch's steps."""
        if self._history:
            return fmean(record.duration_s for record in self._history)
        taken = self._taken - self._before
        return (time.monotonic() - self._began) / taken * self.steps if taken and self._began else None
