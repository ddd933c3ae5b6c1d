"""A search as stored on disk, finished or not: its candidates, its progress and its front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sepnas.errors import SearchError
from sepnas.objectives import Bounds, Objective
from sepnas.search.candidate import Candidate
from sepnas.search.choose import front_within
from sepnas.search.folder import FRONT_FILE, SearchFront, SearchRun, load_candidates, load_run
from sepnas.search.history import FrontStep, front_history
from sepnas.search.needs import check_known
from sepnas.search.pareto import knee
from sepnas.spec.files import is_there


@dataclass(frozen=True)
class Found:
    """The results of a search so far; ``candidates`` are sorted by index, with architectures named after them."""

    run_dir: Path
    run: SearchRun
    candidates: tuple[Candidate, ...]

    @classmethod
    def load(cls, run_dir: Path) -> Found:
        """Read a run folder; raises :class:`SearchError` if it holds no search or no candidate yet."""
        candidates = load_candidates(run_dir)
        run = load_run(run_dir)
        if not candidates:
            raise SearchError(f"{run_dir}: no candidate is evaluated yet; the supernet is trained first")
        return cls(run_dir, run, tuple(candidate.named(run.space.name) for candidate in candidates))

    @property
    def has_front(self) -> bool:
        """Whether any candidate is within the space's bounds."""
        return not all(candidate.excess for candidate in self.candidates)

    @cached_property
    def front(self) -> list[Candidate]:
        """The Pareto front; raises :class:`SearchError` while no candidate is within the space's bounds."""
        return front_within(self.candidates, Bounds())

    @cached_property
    def knee(self) -> Candidate:
        return knee(self.front)

    @cached_property
    def finished(self) -> bool:
        """Whether the search is complete: it evaluated all requested candidates or exhausted its space."""
        path = self.run_dir / FRONT_FILE
        if len(self.candidates) >= self.run.candidates or not is_there(path):
            return is_there(path)
        return {c.key for c in SearchFront.load(path).candidates} == {c.key for c in self.front}

    def course(self) -> str:
        """The progress as text."""
        if self.finished:
            return f"{len(self.candidates)} candidates evaluated"
        return f"{len(self.candidates)} of {self.run.candidates} candidates evaluated, the search is not finished"

    def check_known(self, objectives: Iterable[Objective]) -> None:
        """Raise :class:`SearchError` if the search's cluster lacks the figures that one of ``objectives`` needs."""
        check_known(objectives, self.run.space, self.run.cluster)

    def within(self, bounds: Bounds) -> list[Candidate]:
        return front_within(self.candidates, bounds)

    def candidate(self, index: int) -> Candidate:
        """The candidate with this index; raises :class:`SearchError` if there is none."""
        for candidate in self.candidates:
            if candidate.index == index:
                return candidate
        last = self.candidates[-1].index
        raise SearchError(f"{self.run_dir}: no candidate {index} is evaluated; the numbers go from 0 to {last}")

    def history(self) -> list[FrontStep]:
        """The front after each candidate."""
        from sepnas.search.screen import reference_costs  # imported late: only the history needs it

        return front_history(self.candidates, reference_costs(self.run.space, self.run.cluster, self.run.seed))
