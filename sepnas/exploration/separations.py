"""All separations of one network that knobs give; what is expensive is found once for each end of tiles."""

from __future__ import annotations

from functools import lru_cache

from sepnas.exploration.knobs import Knobs
from sepnas.importing.separator import Separator
from sepnas.separation.bases import Bases
from sepnas.separation.document import Separation
from sepnas.separation.network import SeparatedGraph
from sepnas.separation.separate import separation_within
from sepnas.separation.thinning import Limits, Offers, Thinned, message_cost_bytes
from sepnas.separation.tiled_layers import NO_TILES, TiledLayers
from sepnas.spec.cluster import Cluster

KEPT_ENDS = 16
"""Ends of tiles whose possible messages are kept: those of EfficientNet-Lite0 over four devices take 11 MB each."""


class Separations:
    """The separations of a network, the same as `sepnas separate` makes with the same knobs."""

    def __init__(self, of: Separator, cluster: Cluster) -> None:
        self.of, self.cluster = of, cluster
        self.offers = lru_cache(maxsize=KEPT_ENDS)(self._offers)

    def tiles(self, tiles_until: str) -> TiledLayers | None:
        return None if tiles_until == NO_TILES else self.of.tiles(tiles_until)

    def tiled_share(self, tiles_until: str) -> float:
        """The share of the network's MACs in tiled layers."""
        graph, tiles = self.of.graph, self.tiles(tiles_until)
        macs = sum(graph.macs_of(node) for node in graph.nodes if tiles and node.name in tiles.nodes)
        return macs / max(1, graph.macs)

    def _offers(self, tiles_until: str) -> Offers:
        return Offers(self.of.placement(self.tiles(tiles_until)), Bases(self.of.arrays, self.of.statistics))

    def limits(self, knobs: Knobs) -> Limits:
        cost = message_cost_bytes(self.cluster, len(self.of.shares), knobs.messages)
        return self.of.limits(knobs.budget, knobs.exchange_points, knobs.wire, cost)

    def separation(self, knobs: Knobs) -> tuple[Separation, Thinned]:
        """Raises :class:`SpecError` if the budget does not suffice for what must be sent."""
        return separation_within(self.offers(knobs.tiles_until), self.limits(knobs))

    def network(self, separation: Separation, thinned: Thinned) -> SeparatedGraph:
        return self.of.network(separation, thinned)

    def points(self, separation: Separation) -> int:
        """The number of tensors that devices exchange, without those that they need whole."""
        placement = self.offers(separation.tiles.tensor if separation.tiles else NO_TILES).placement
        return len(separation.exchange_points(placement))

    def missing_share(self, knobs: Knobs) -> float:
        """How far the budget is from what must be sent, as a share of the budget; 0 if it suffices."""
        limits = self.limits(knobs)
        needed = self.offers(knobs.tiles_until).needed_bytes(limits)
        return max(0.0, needed / limits.budget_bytes - 1) if limits.budget_bytes else 0.0
