"""A candidate: one policy that was judged, and the line that keeps it."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from sepnas.separable.architecture import Architecture
from sepnas.separable.space import Choice, SearchSpace
from sepnas.spec.document import Part
from sepnas.spec.reading import parse_json


class Candidate(Part):
    """One point of a search.

    ``index`` counts the judged candidates from 0, ``key`` names the plan (:func:`sepnas.search.canonical.plan_key`).
    ``objectives`` are those of the space, ``costs`` all simulated ones that were known when it was judged (see
    ``sepnas/objectives``). Accuracies are fractions of the validation images. ``seconds`` is what judging it took.
    ``excess`` is how far it is beyond the space's bounds on what is judged, as a share of them: only a candidate with
    0 can be on the front. It follows from the space, and no file keeps it.
    """

    index: Annotated[int, Field(ge=0)]
    key: str
    genotype: dict[str, Choice]
    objectives: dict[str, float]
    costs: dict[str, float]
    seconds: float = 0.0
    architecture: Architecture
    excess: Annotated[float, Field(ge=0, exclude=True)] = 0.0

    @property
    def measured(self) -> dict[str, float]:
        """All its numbers by name: accuracies and costs."""
        return self.objectives | self.costs

    def line(self) -> str:
        """One JSON line; the architecture follows from the genotype and is left out."""
        return json.dumps(self.model_dump(mode="json", exclude={"architecture"}))

    def named(self, space: str) -> Candidate:
        """The candidate with an architecture that says where it comes from."""
        architecture = self.architecture.model_copy(update={"name": f"{space}-{self.index}"})
        return self.model_copy(update={"architecture": architecture})

    @classmethod
    def from_line(cls, line: str, space: SearchSpace) -> Candidate:
        """Read a line; ``ValueError`` (pydantic's, json's) or ``SpecError`` when it is damaged."""
        data = parse_json(line)
        if not isinstance(data, dict) or not isinstance(data.get("genotype"), dict):
            raise ValueError("not a candidate")
        architecture = space.architecture_of(data["genotype"])
        found = cls.model_validate({**data, "architecture": architecture})
        excess = space.constraints.bounds(judged=True).excess(found.objectives)
        return found.model_copy(update={"excess": excess}) if excess else found
