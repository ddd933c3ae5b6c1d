"""A candidate: one evaluated point of a search, such as a network with its policy, and its JSON line."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import Field

from sepnas.separable.architecture import Architecture
from sepnas.separable.space import Choice, SearchSpace
from sepnas.spec.document import Part
from sepnas.spec.reading import parse_json


class Evaluated(Part):
    """One point of a search, whatever it searches.

    ``index`` numbers the evaluated candidates from 0; candidates of equal ``key`` are the same. ``objectives`` are
    those of the search; ``costs`` are all simulated objectives known at evaluation time (see ``sepnas/objectives``).
    Accuracies are fractions of the validation images. ``seconds`` is the evaluation time. ``excess`` is the relative
    violation of bounds on accuracies; only candidates with 0 can be on the front. It is never stored.
    """

    index: Annotated[int, Field(ge=0)]
    key: str
    genotype: dict[str, Choice]
    objectives: dict[str, float]
    costs: dict[str, float]
    seconds: float = 0.0
    excess: Annotated[float, Field(ge=0, exclude=True)] = 0.0

    @property
    def measured(self) -> dict[str, float]:
        """All objectives and costs by name."""
        return self.objectives | self.costs

    def line(self) -> str:
        """One JSON line."""
        return json.dumps(self.model_dump(mode="json"))


EvaluatedT = TypeVar("EvaluatedT", bound=Evaluated)


class Candidate(Evaluated):
    """A network and its policy; ``key`` identifies the plan (:func:`sepnas.search.canonical.plan_key`)."""

    architecture: Architecture

    def line(self) -> str:
        """One JSON line, without the architecture, which follows from the genotype."""
        return json.dumps(self.model_dump(mode="json", exclude={"architecture"}))

    def named(self, space: str) -> Candidate:
        """The candidate, with its architecture named after the space and the index."""
        architecture = self.architecture.model_copy(update={"name": f"{space}-{self.index}"})
        return self.model_copy(update={"architecture": architecture})

    @classmethod
    def from_line(cls, line: str, space: SearchSpace) -> Candidate:
        """Parse a line; raises ``ValueError`` (from pydantic or json) or ``SpecError`` if it is damaged."""
        data = parse_json(line)
        if not isinstance(data, dict) or not isinstance(data.get("genotype"), dict):
            raise ValueError("not a candidate")
        architecture = space.architecture_of(data["genotype"])
        found = cls.model_validate({**data, "architecture": architecture})
        excess = space.constraints.bounds(evaluated=True).excess(found.objectives)
        return found.model_copy(update={"excess": excess}) if excess else found
