"""Strategies run on whatever implements ``Problem``, not only on sepnas' own spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from sepnas.search.evolution import EvolutionProposer
from sepnas.search.nsga2 import Nsga2Proposer

DIGITS, WIDEST = ("a", "b", "c", "d", "e"), 4


@dataclass(frozen=True)
class PricedDigits:
    """Five digits from 0 to 4: their sum is a cost."""

    genotype: dict[str, int]
    feasible: bool = True
    excess: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return "".join(str(self.genotype[name]) for name in DIGITS)

    @property
    def costs(self) -> dict[str, float]:
        return {"sum": float(sum(self.genotype.values()))}


class DigitsProblem:
    """Digits are worth more the nearer the first is to 3; sums above ``largest`` are infeasible."""

    choices = dict.fromkeys(DIGITS, tuple(range(WIDEST + 1)))
    directions = MappingProxyType({"worth": "maximize", "sum": "minimize"})
    evaluated = ("worth",)
    first = (dict.fromkeys(DIGITS, 0),)

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def price(self, genotype: Mapping[str, Any]) -> PricedDigits:
        found = PricedDigits(dict(genotype))
        over = found.costs["sum"] / self.largest - 1
        return PricedDigits(found.genotype, over <= 0, {"sum": over} if over > 0 else {})

    def describe(self, priced: PricedDigits, genes: np.ndarray) -> np.ndarray:
        return np.concatenate([genes, list(priced.costs.values())], dtype=np.float32)

    def scale(self, measured: Mapping[str, float]) -> np.ndarray:
        return np.array([1 - measured["worth"], measured["sum"] / (WIDEST * len(DIGITS))])

    def excess(self, measured: Mapping[str, float]) -> float:
        return 0.0


def worth(found: PricedDigits) -> float:
    digits = [found.genotype[name] for name in DIGITS]
    return 1 / (1 + (digits[0] - 3) ** 2 + abs(digits[1] - 2))


@pytest.mark.parametrize("make", [EvolutionProposer, Nsga2Proposer])
def test_a_strategy_explores_what_is_no_search_space(make: Callable[..., Any]) -> None:
    """Of 3,125 genotypes a strategy that prices before it pays finds the best in 120 evaluations."""
    proposer = make(DigitsProblem(largest=15), seed=0)
    found = []
    for _ in range(120):
        proposal = proposer.propose()
        assert proposal is not None
        found.append(proposal)
        proposer.tell(proposal.key, {"worth": worth(proposal), **proposal.costs})
    assert len({each.key for each in found}) == 120
    assert max(each.costs["sum"] for each in found) <= 15
    assert max(map(worth, found)) == 1.0


@pytest.mark.parametrize("children", [2, 16])
def test_so_many_children_are_priced_for_each_candidate(children: int) -> None:
    """Where a price takes long there are few, at most this number once accuracies can be predicted."""
    problem = DigitsProblem(largest=20)
    priced = []

    def price(genotype: Mapping[str, Any]) -> PricedDigits:
        priced.append(genotype)
        return DigitsProblem.price(problem, genotype)

    problem.price = price  # type: ignore[method-assign]
    proposer = EvolutionProposer(problem, seed=0, children=children)
    for _ in range(30):
        before = len({tuple(each.items()) for each in priced})
        proposal = proposer.propose()
        assert proposal is not None
        proposer.tell(proposal.key, {"worth": worth(proposal), **proposal.costs})
        assert len({tuple(each.items()) for each in priced}) - before <= children
    assert proposer.models


def test_the_first_proposals_are_the_problem_s() -> None:
    """What a problem names as worth an evaluation is evaluated first."""
    assert EvolutionProposer(DigitsProblem(largest=15), seed=3).propose() == PricedDigits(DigitsProblem.first[0])
