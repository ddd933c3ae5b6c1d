"""How a front grew while candidates were judged, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sepnas.search.candidate import Candidate
from sepnas.search.pareto import hypervolume, knee, pareto_front


@dataclass(frozen=True, slots=True)
class FrontStep:
    """The front after ``judged`` candidates; its accuracy and its knee are 0 while none keeps the space's bounds."""

    judged: int
    front_size: int
    hypervolume: float
    best_accuracy: float
    knee_payload_bytes: float


class FrontHistory:
    """Takes candidates in and tells of the front each time; ``worst`` is what :func:`hypervolume` takes."""

    def __init__(self, worst: Mapping[str, float]) -> None:
        self.worst = worst
        self.front: list[Candidate] = []
        self._judged = 0
        self._step: FrontStep | None = None

    def add(self, candidate: Candidate) -> FrontStep:
        self._judged += 1
        front = pareto_front([*self.front, candidate])
        if self._step is None or any(point is candidate for point in front):
            self.front = front
            self._step = FrontStep(
                self._judged,
                len(front),
                hypervolume(front, self.worst),
                max((point.objectives["accuracy"] for point in front), default=0.0),
                knee(front).costs["payload_bytes"] if front else 0.0,
            )
        return replace(self._step, judged=self._judged)


def front_history(candidates: Iterable[Candidate], worst: Mapping[str, float]) -> list[FrontStep]:
    """One step for each candidate, in their order."""
    history = FrontHistory(worst)
    return [history.add(candidate) for candidate in candidates]
