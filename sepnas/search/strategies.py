"""The search strategies by name, and the proposer of each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Generic, Protocol

from sepnas.search.explorer import ProposedT, Proposer, StrategyName
from sepnas.search.problem import PricedT, Problem

POPULATIONS: Mapping[StrategyName, int] = MappingProxyType({"nsga2": 24, "regularized-evolution": 100})
"""Number of initial random candidates of these strategies; later candidates are bred from them."""
CHILDREN = 16
"""Number of children priced per evaluated candidate, once accuracy can be predicted."""


def remark_on(strategy: StrategyName, candidates: int) -> str | None:
    """A warning if the search ends within the first, random generation, else None."""
    population = POPULATIONS.get(strategy, 0)
    if candidates > population:
        return None
    return (
        f"strategy {strategy} starts with {population} random candidates and breeds from these, so {candidates} "
        "candidates make a random search; evaluate more candidates, or choose another strategy"
    )


def check_libraries() -> None:
    """Raise ``ModuleNotFoundError`` for what a search lacks, before any training and not hours later."""
    for module in ("nni", "moocore"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


class CountingProposer(Proposer[ProposedT], Protocol[ProposedT]):
    """A proposer that counts infeasible and repeated candidates; neither are evaluated."""

    rejected: int
    duplicates: int


class GivenProposer(Generic[PricedT]):
    """Passes on the candidates ``given`` by one of NNI's own strategies."""

    def __init__(self, problem: Problem[PricedT]) -> None:
        self.problem = problem
        self.given: list[PricedT] = []
        self.known: dict[str, Mapping[str, float]] = {}
        self.duplicates = self.rejected = 0

    def propose(self) -> PricedT | None:
        return self.given.pop() if self.given else None

    def tell(self, key: str, objectives: Mapping[str, float]) -> None:
        self.known[key] = objectives


def make_proposer(
    name: StrategyName, problem: Problem[PricedT], seed: int, children: int = CHILDREN
) -> CountingProposer[PricedT]:
    """The proposer of a strategy for a problem; imports its libraries.

    The predictive strategy prices ``children`` for each candidate that it proposes.
    """
    if name in ("predictive", "evolution"):
        from sepnas.search.evolution import EvolutionProposer

        return EvolutionProposer(problem, seed, predictor=name == "predictive", children=children)
    if name == "nsga2":
        from sepnas.search.nsga2 import Nsga2Proposer

        return Nsga2Proposer(problem, seed)
    return GivenProposer(problem)
