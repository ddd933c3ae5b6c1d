"""The candidates of a search so far and their front, reported to the display and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol

from sepnas.search.candidate import EvaluatedT
from sepnas.search.curves import SearchCurves
from sepnas.search.history import FrontHistory, FrontStep
from sepnas.search.progress import ProgressDisplay, SearchProgress


class Counts(Protocol):
    """A proposer's counts of candidates excluded before evaluation."""

    rejected: int
    duplicates: int


class Tally(Generic[EvaluatedT]):
    """Receives each candidate and reports it to the display and, within :meth:`curves`, to TensorBoard.

    ``kept`` candidates were evaluated by an earlier run: they count from the start, and are not shown again when the
    explorer proposes them. ``side_by_side`` is the number of concurrent evaluations.
    """

    def __init__(
        self,
        total: int,
        worst: Mapping[str, float],
        display: ProgressDisplay,
        left_out: Counts,
        kept: Sequence[EvaluatedT] = (),
        side_by_side: int = 1,
    ) -> None:
        self.total, self.worst, self.display, self.left_out = total, worst, display, left_out
        self.candidates: list[EvaluatedT] = []
        self.fresh = 0
        self.started = self._fresh_since = time.perf_counter()
        self._before_s = sum(candidate.seconds for candidate in kept) / side_by_side
        self._kept_s = self._before_s / len(kept) if kept else None
        self._history = FrontHistory(worst)
        self._curves: SearchCurves | None = None
        for step in [self._history.add(candidate) for candidate in kept][-1:]:
            self._show(step)

    @contextmanager
    def curves(self, run_dir: Path, kept: Sequence[EvaluatedT]) -> Iterator[None]:
        """Write TensorBoard curves; ``kept`` candidates were evaluated by an earlier run."""
        with SearchCurves(run_dir, kept, self.worst) as self._curves:
            yield

    def add(self, candidate: EvaluatedT, fresh: bool) -> None:
        """Add a candidate; a ``fresh`` one was evaluated in this run, not read from the archive."""
        self.candidates.append(candidate)
        self.fresh += fresh
        if not self.fresh:
            self._fresh_since = time.perf_counter()  # replaying archived candidates says nothing about evaluation speed
        if self._curves is not None:
            self._curves.add(candidate, 1 / self._seconds_each() if fresh else None)
        if fresh:
            self._show(self._history.add(candidate))

    def seconds(self) -> float:
        """Exploration time in seconds, including evaluations in interrupted runs."""
        return self._before_s + time.perf_counter() - self.started

    def _seconds_each(self) -> float:
        return (time.perf_counter() - self._fresh_since) / self.fresh

    def _show(self, step: FrontStep) -> None:
        each_s = self._seconds_each() if self.fresh else self._kept_s
        progress = SearchProgress(
            done=step.evaluated,
            total=self.total,
            front_size=step.front_size,
            hypervolume=step.hypervolume,
            seconds_left=None if each_s is None else max(0, self.total - step.evaluated) * each_s,
            best_accuracy=step.best_accuracy,
            knee_payload_bytes=step.knee_payload_bytes,
            rejected=self.left_out.rejected,
            duplicates=self.left_out.duplicates,
        )
        self.display.show(progress)
