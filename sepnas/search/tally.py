"""The candidates of a search so far, their front, and who hears of them: the display and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sepnas.search.candidate import Candidate
from sepnas.search.curves import SearchCurves
from sepnas.search.history import FrontHistory
from sepnas.search.progress import ProgressDisplay, SearchProgress


class Counts(Protocol):
    """What a proposer left out before anybody judged it."""

    rejected: int
    duplicates: int


class Tally:
    """Hears of each candidate and passes it on; within :meth:`curves` to TensorBoard too."""

    def __init__(self, total: int, worst: Mapping[str, float], display: ProgressDisplay, left_out: Counts) -> None:
        self.total, self.worst, self.display, self.left_out = total, worst, display, left_out
        self.candidates: list[Candidate] = []
        self.fresh = 0
        self.started = time.perf_counter()
        self._history = FrontHistory(worst)
        self._curves: SearchCurves | None = None

    @property
    def front(self) -> list[Candidate]:
        return self._history.front

    @contextmanager
    def curves(self, run_dir: Path, kept: Sequence[Candidate]) -> Iterator[None]:
        """Draw what comes in; ``kept`` are the candidates that an earlier run judged."""
        with SearchCurves(run_dir, kept, self.worst) as self._curves:
            yield

    def add(self, candidate: Candidate, fresh: bool) -> None:
        """Take in one candidate; a ``fresh`` one was judged just now, not read from the archive."""
        self.candidates.append(candidate)
        self.fresh += fresh
        step = self._history.add(candidate)
        per_s = self.fresh / self.seconds() if self.fresh else None
        if self._curves is not None:
            self._curves.add(candidate, per_s if fresh else None)
        progress = SearchProgress(
            done=step.judged,
            total=self.total,
            front_size=step.front_size,
            hypervolume=step.hypervolume,
            seconds_left=None if per_s is None else (self.total - step.judged) / per_s,
            best_accuracy=step.best_accuracy,
            knee_payload_bytes=step.knee_payload_bytes,
            rejected=self.left_out.rejected,
            duplicates=self.left_out.duplicates,
        )
        self.display.show(progress)

    def seconds(self) -> float:
        return time.perf_counter() - self.started
