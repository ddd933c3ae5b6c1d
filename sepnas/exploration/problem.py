"""Knobs of `sepnas separate` as a problem for the strategies of a search: costs are simulated, accuracies evaluated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from sepnas.exploration.candidate import PricedSeparation
from sepnas.exploration.knobs import BUDGET, TILES_UNTIL, Knobs, choices_of
from sepnas.exploration.separations import Separations
from sepnas.objectives import ACCURACY, LATENCY_S, MEMORY_BYTES, OBJECTIVES, PAYLOAD_BYTES, Direction
from sepnas.search.pareto import Points, log_shares
from sepnas.search.problem import Features, Genes
from sepnas.search.screen import priced
from sepnas.separable.space import Choice, Genotype
from sepnas.separation.document import Separation
from sepnas.separation.thinning import ANY, AUTO
from sepnas.separation.tiled_layers import NO_TILES
from sepnas.spec.cluster import Cluster
from sepnas.units import format_count

OBJECTIVE_NAMES = tuple(each.name for each in (ACCURACY, LATENCY_S, PAYLOAD_BYTES, MEMORY_BYTES))
NO_BYTES = "bytes that must be sent"
_LEAST_LOST = 1e-6
"""Nats: what is lost of an exact separation is nothing."""


class SeparationProblem:
    """A :class:`sepnas.search.problem.Problem` whose genotypes are knobs, priced on a cluster with all links."""

    def __init__(self, separations: Separations, cluster: Cluster) -> None:
        self.separations, self.cluster = separations, cluster
        self.choices: Mapping[str, tuple[Choice, ...]] = choices_of(separations.of)
        self.directions: Mapping[str, Direction] = MappingProxyType(
            {name: OBJECTIVES[name].direction for name in OBJECTIVE_NAMES}
        )
        self.evaluated = (ACCURACY.name,)
        self._priced: dict[Knobs, PricedSeparation] = {}
        self._by_key: dict[str, PricedSeparation] = {}
        self.first = self._first()
        self.worst = self._worst()

    def _first(self) -> tuple[dict[str, Choice], ...]:
        """The silent separation, and those with most bytes, without tiles and with the most of them."""
        most = max(float(each) for each in self.choices[BUDGET])
        ends = dict.fromkeys((NO_TILES, str(self.choices[TILES_UNTIL][-1])))
        silent = Knobs(NO_TILES, None, 0.0, AUTO, ANY)
        return tuple(each.genotype() for each in (silent, *(Knobs(end, None, most, AUTO, ANY) for end in ends)))

    def _worst(self) -> dict[str, float]:
        """The highest costs of the first candidates, at which the hypervolume ends."""
        found = [self.price(genotype) for genotype in self.first]
        known = [each.costs for each in found if each.feasible] or [each.costs for each in found if each.costs]
        return {name: max(costs[name] for costs in known) for name in known[0]}

    def price(self, genotype: Genotype) -> PricedSeparation:
        knobs = Knobs.of(genotype)
        if knobs not in self._priced:
            self._priced[knobs] = self._price(knobs)
        return self._priced[knobs]

    def _price(self, knobs: Knobs) -> PricedSeparation:
        genotype = knobs.genotype()
        if missing := self.separations.missing_share(knobs):
            return PricedSeparation(genotype, f"{knobs}", {}, {NO_BYTES: missing})
        separation, thinned = self.separations.separation(knobs)
        key = key_of(separation)
        if key not in self._by_key:
            costs, excess = priced(self.separations.network(separation, thinned).plan(), self.cluster)
            points = self.separations.points(separation)
            self._by_key[key] = PricedSeparation(genotype, key, costs, excess, points, thinned.lost)
        return replace(self._by_key[key], genotype=genotype)

    def explain(self) -> str:
        """What excludes settings of the knobs, as text."""
        counts = Counter(name for each in self._priced.values() for name in each.excess)
        told = ", ".join(f"{name}: {count}" for name, count in counts.most_common())
        return f"of {format_count(len(self._priced), 'setting')} these exclude: {told or 'none'}"

    def describe(self, priced: PricedSeparation, genes: Genes) -> Features:
        """The choices, how much of the network is in tiles, what crosses, what is lost, and costs."""
        knobs, costs = Knobs.of(priced.genotype), priced.costs
        share = self.separations.tiled_share(knobs.tiles_until)
        sizes = np.log1p([costs[PAYLOAD_BYTES.name], costs[MEMORY_BYTES.name], 1e6 * costs[LATENCY_S.name]])
        lost = np.log(priced.lost + _LEAST_LOST)
        return np.concatenate([genes, sizes, [share, priced.points, lost]], dtype=np.float32)

    def scale(self, measured: Mapping[str, float]) -> Points:
        """Log shares: costs span decades."""
        return log_shares({name: measured[name] for name in self.directions}, self.worst)

    def excess(self, measured: Mapping[str, float]) -> float:
        """0: accuracies have no bounds."""
        return 0.0


def key_of(separation: Separation) -> str:
    """A digest of what a separation says: 32 hexadecimal digits."""
    return hashlib.sha256(separation.dumps().encode()).hexdigest()[:32]
