"""The networks and transmission policies of a search space on a cluster, as strategies explore them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sepnas.objectives import OBJECTIVES, Direction, is_evaluated
from sepnas.search.describer import Describer
from sepnas.search.pareto import Points, log_shares
from sepnas.search.problem import Features, Genes
from sepnas.search.screen import Screen, Screened, first_genotypes, reference_costs
from sepnas.separable.space import Choice, Genotype


class PolicyProblem:
    """A :class:`sepnas.search.problem.Problem` that prices by simulation; ``screen`` counts what it excludes."""

    def __init__(self, screen: Screen, seed: int) -> None:
        space = screen.space
        self.screen, self.describer = screen, Describer(space)
        self.choices: Mapping[str, tuple[Choice, ...]] = space.choices()
        self.directions: Mapping[str, Direction] = MappingProxyType(
            {name: OBJECTIVES[name].direction for name in space.objectives}
        )
        self.evaluated = tuple(name for name in space.objectives if is_evaluated(name))
        self.first = first_genotypes(space)
        self.worst = reference_costs(space, screen.cluster, seed)
        self.bounds = space.constraints.bounds(evaluated=True)

    def price(self, genotype: Genotype) -> Screened:
        return self.screen(genotype)

    def describe(self, priced: Screened, genes: Genes) -> Features:
        return self.describer(priced, genes)

    def scale(self, measured: Mapping[str, float]) -> Points:
        """Log shares: costs span decades."""
        return log_shares({name: measured[name] for name in self.directions}, self.worst)

    def excess(self, measured: Mapping[str, float]) -> float:
        return self.bounds.excess(measured)
