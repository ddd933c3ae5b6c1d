"""The growth of a front, candidate by candidate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sepnas.search.candidate import Evaluated
from sepnas.search.pareto import hypervolume, knee, pareto_front


@dataclass(frozen=True, slots=True)
class FrontStep:
    """The front after ``evaluated`` candidates; accuracy and knee are 0 while none is within the space's bounds."""

    evaluated: int
    front_size: int
    hypervolume: float
    best_accuracy: float
    knee_payload_bytes: float


class FrontHistory:
    """Updates the front with each candidate; ``worst`` is as in :func:`hypervolume`."""

    def __init__(self, worst: Mapping[str, float]) -> None:
        self.worst = worst
        self.front: list[Evaluated] = []
        self._evaluated = 0
        self._step: FrontStep | None = None

    def add(self, candidate: Evaluated) -> FrontStep:
        self._evaluated += 1
        front = pareto_front([*self.front, candidate])
        if self._step is None or any(point is candidate for point in front):
            self.front = front
            self._step = FrontStep(
                self._evaluated,
                len(front),
                hypervolume(front, self.worst),
                max((point.objectives["accuracy"] for point in front), default=0.0),
                knee(front).costs["payload_bytes"] if front else 0.0,
            )
        return replace(self._step, evaluated=self._evaluated)


def front_history(candidates: Iterable[Evaluated], worst: Mapping[str, float]) -> list[FrontStep]:
    """One step per candidate, in order."""
    history = FrontHistory(worst)
    return [history.add(candidate) for candidate in candidates]
