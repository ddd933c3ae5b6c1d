"""The search strategies by name, and the proposer of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from sepnas.search.explorer import Proposer, StrategyName
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.screen import Screen, Screened

POPULATIONS: Mapping[StrategyName, int] = MappingProxyType({"nsga2": 24, "regularized-evolution": 100})
"""Number of initial random candidates of these strategies; later candidates are bred from them."""


def remark_on(strategy: StrategyName, candidates: int) -> str | None:
    """A warning if the search ends within the first, random generation, else None."""
    population = POPULATIONS.get(strategy, 0)
    if candidates > population:
        return None
    return (
        f"strategy {strategy} starts with {population} random candidates and breeds from these, so {candidates} "
        "candidates make a random search; evaluate more candidates, or choose another strategy"
    )


class CountingProposer(Proposer, Protocol):
    """A proposer that counts infeasible and repeated candidates; neither are evaluated."""

    rejected: int
    duplicates: int


class GivenProposer:
    """Passes on the candidates ``given`` by one of NNI's own strategies."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.given: list[Screened] = []
        self.known: dict[str, Mapping[str, float]] = {}
        self.duplicates = self.rejected = 0

    def propose(self) -> Screened | None:
        return self.given.pop() if self.given else None

    def tell(self, key: str, objectives: Mapping[str, float]) -> None:
        self.known[key] = objectives


def make_proposer(name: StrategyName, screen: Screen, seed: int) -> CountingProposer:
    """The proposer of a strategy for the screen's space; imports its libraries."""
    if name in ("predictive", "evolution"):
        from sepnas.search.evolution import EvolutionProposer

        return EvolutionProposer(PolicyProblem(screen, seed), seed, predictor=name == "predictive")
    if name == "nsga2":
        from sepnas.search.nsga2 import Nsga2Proposer

        return Nsga2Proposer(PolicyProblem(screen, seed), seed)
    return GivenProposer(screen)
