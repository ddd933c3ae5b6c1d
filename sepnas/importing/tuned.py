"""Separates a network and fine-tunes the result: a run's folder, in which ``start`` is the network before training.

The network of the run is that of the best epoch, or the one before training if no epoch is as good.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sepnas.importing.folder import folder_beside
from sepnas.importing.separated import BESIDE, SeparationResult
from sepnas.partition.graph import WEIGHTS_NAME
from sepnas.spec.writing import replacing
from sepnas.train.separated import SeparatedTuning, Tuned

START = "start"


@dataclass(frozen=True)
class TunedSeparation(Tuned):
    """A network that was separated and then fine-tuned; ``separation`` is what was found of it before training."""

    separation: SeparationResult

    @property
    def keeps_start(self) -> bool:
        """Whether the run's network is the one before training, which no epoch equals."""
        return self.training.finished and self.start_accuracy > self.training.best_accuracy

    @property
    def accuracy(self) -> float:
        """That of the run's network."""
        return self.start_accuracy if self.keeps_start or not self.training.history else self.training.best_accuracy


def separate_and_tune(
    tuning: SeparatedTuning,
    separate: Callable[[Path], SeparationResult],
    run: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
) -> TunedSeparation:
    """Fine-tune what ``separate`` writes into the folder that it is given, and keep that as ``start`` of the run.

    It is kept once the run has begun, so that a run that is refused changes nothing of an earlier one.
    """
    where = run if run.is_dir() else run.parent
    with folder_beside(run / START, where, True, BESIDE) as start:
        found = separate(start.path)
        tuned = tuning.run(start.path, run, seed=seed, resume=resume, threads=threads, on_begin=start.put)
    result = TunedSeparation(**vars(tuned), separation=found)
    if result.keeps_start:
        with replacing(run / WEIGHTS_NAME) as temporary:
            shutil.copyfile(run / START / WEIGHTS_NAME, temporary)
    return result
