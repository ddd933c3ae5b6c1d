"""Separates a network and fine-tunes the result: a run's folder, in which ``start`` is the network before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sepnas.importing.folder import folder_beside
from sepnas.importing.separated import BESIDE, SeparationResult
from sepnas.train.separated import SeparatedTuning, Tuned

START = "start"


@dataclass(frozen=True)
class TunedSeparation(Tuned):
    """A network that was separated and then fine-tuned; ``separation`` is what was found of it before training."""

    separation: SeparationResult


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
    return TunedSeparation(**vars(tuned), separation=found)
