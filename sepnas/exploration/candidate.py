"""A candidate of an exploration: one setting of the knobs, what its separation costs, and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sepnas.exploration.knobs import Knobs
from sepnas.search.candidate import Evaluated
from sepnas.separable.space import Choice
from sepnas.spec.reading import parse_json


class SeparationCandidate(Evaluated):
    """An evaluated separation; ``points`` is the number of exchange points at which it sends something.

    ``key`` is a digest of the separation's document: the devices of all channels, and what crosses between them.
    """

    points: Annotated[int, Field(ge=0)]

    @property
    def knobs(self) -> Knobs:
        return Knobs.of(self.genotype)

    @classmethod
    def from_line(cls, line: str) -> SeparationCandidate:
        """Parse a line; raises ``ValueError`` if it is damaged."""
        found = cls.model_validate(parse_json(line))
        Knobs.of(found.genotype)
        return found


@dataclass(frozen=True, slots=True)
class PricedSeparation:
    """Knobs, and what their separation costs; ``lost`` is the value of what is not sent (``Thinned.lost``).

    ``excess`` is how far a budget is from what must be sent, or a plan from what the cluster has; such a separation has
    no costs if there is none.
    """

    genotype: dict[str, Choice]
    key: str
    costs: dict[str, float]
    excess: dict[str, float]
    points: int = 0
    lost: float = 0.0

    @property
    def feasible(self) -> bool:
        return not self.excess

    def candidate(
        self, index: int, objectives: Mapping[str, float], seconds: float, excess: float
    ) -> SeparationCandidate:
        return SeparationCandidate(
            index=index, key=self.key, genotype=self.genotype, objectives=dict(objectives), costs=self.costs,
            seconds=seconds, excess=excess, points=self.points,
        )  # fmt: skip
