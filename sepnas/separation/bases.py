"""The mixtures that devices may send each other, found once for all placements in which the same channels meet."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.separation.atoms import Labels
from sepnas.separation.demands import Demand
from sepnas.separation.importance import Weights
from sepnas.separation.mixtures import Basis, known_to, readers_of
from sepnas.separation.spaces import Placement
from sepnas.separation.statistics import Statistics


class Bases:
    """The bases of a network's messages.

    A basis depends on the channels that a device has of a tensor, on those of the sender, and on the outputs that read
    them. Ends of tiles leave these as they are for the layers behind.
    """

    def __init__(self, weights: Weights, statistics: Statistics) -> None:
        self.weights, self.statistics = weights, statistics
        self._found: dict[tuple[object, ...], Basis] = {}

    def of(self, placement: Placement, demand: Demand, senders: Sequence[Labels]) -> list[Basis]:
        """The mixtures of each sender's channels for the layers of a demand."""
        layers = ((layer.node.name, placement.own(layer.output, demand.device).tobytes()) for layer in demand.layers)
        reading = demand.tensor, placement.own(demand.tensor, demand.device).tobytes(), *layers
        keys = [(*reading, channels.tobytes()) for channels in senders]
        if any(key not in self._found for key in keys):
            self._find(placement, demand, dict(zip(keys, senders, strict=True)))
        return [self._found[key] for key in keys]

    def _find(self, placement: Placement, demand: Demand, senders: dict[tuple[object, ...], Labels]) -> None:
        known = known_to(placement, self.statistics, demand.tensor, demand.device)
        readers = readers_of(placement, demand.layers, demand.device, self.weights, self.statistics)
        centred = placement.channels.may_be_centred(demand.tensor)
        for key, channels in senders.items():
            self._found[key] = known.basis(channels, readers[:, channels], centred)
