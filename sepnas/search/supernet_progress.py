"""How far the training of the supernet is, told in the search's own display, wherever the training began."""

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
    """A step of the training in ``folder`` that tells the display how far it is: ``steps`` make one of ``epochs``.

    What an interrupted training had done is read where the first step of each epoch begins.
    """

    def __init__(self, step: Step, folder: Path, steps: int, epochs: int, display: ProgressDisplay) -> None:
        self.step, self.folder, self.steps, self.epochs, self.display = step, folder, steps, epochs, display
        self._history: Sequence[EpochRecord] = ()
        self._before = self._taken = 0
        """Steps of the epoch that is running; how many of them an interrupted training had taken."""
        self._began: float | None = None

    def __call__(self, network: nn.Module, images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> Tensor:
        if self._began is None:
            self._begin_epoch(steps_begun(self.folder))
        elif self._taken == self.steps:
            self._begin_epoch(0)
        loss = self.step(network, images_BCHW, labels_B, generator)
        self._taken += 1
        if self._taken < self.steps:  # a whole epoch counts once it is validated and kept
            self._tell()
        return loss

    def finish(self, history: Sequence[EpochRecord]) -> None:
        """The training has ended with this history; where it took no step there is nothing to tell."""
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
        """What an epoch takes: as those before it did, the first one as its steps so far do."""
        if self._history:
            return fmean(record.duration_s for record in self._history)
        taken = self._taken - self._before
        return (time.monotonic() - self._began) / taken * self.steps if taken and self._began else None
