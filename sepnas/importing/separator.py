"""What separating a network needs to know of it: its channels, what images say of them, and their best groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from sepnas.nets.channel_statistics import measure_statistics
from sepnas.nets.crossings import Crossings
from sepnas.nets.fitted_weights import FittedWeights
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.separated import arrays_of, separated_weights, shaped_as
from sepnas.separation.demands import exact_bytes
from sepnas.separation.document import Separation
from sepnas.separation.follow import channels_of
from sepnas.separation.grouping import Grouping, group, placed, slots
from sepnas.separation.importance import Importance, importance_of
from sepnas.separation.network import SeparatedGraph, separated_graph
from sepnas.separation.spaces import Placement, groupable
from sepnas.separation.statistics import Statistics
from sepnas.separation.thinning import MESSAGE_COST_BYTES, Limits, Thinned, formats_of
from sepnas.separation.tiled_layers import TiledLayers, tiled_layers_until
from sepnas.separation.whole_maps import reading_whole_maps


class Separator:
    """A network to be separated over devices with these shares of the work; each thing is found once, when needed.

    On ``samples``, inputs of the network ``(B, ...)``, activations and the costs of errors are measured; without any,
    only weights say what matters. Raises :class:`PlanError` for too few channels.
    """

    def __init__(
        self,
        network: GraphNetwork,
        shares: Sequence[float],
        *,
        read_out: int = 0,
        samples: Sequence[tuple[Tensor, ...]] = (),
        seed: int = 0,
    ) -> None:
        self.original, self.graph = network, reading_whole_maps(network.graph, len(shares))
        self.weights = shaped_as(self.graph, network.weights_by_name)
        self.channels, self.arrays = channels_of(self.graph), arrays_of(self.weights)
        self.shares, self.read_out, self.samples, self.seed = tuple(shares), read_out, samples, seed
        self.spaces = groupable(self.channels, len(shares))
        self._groupings: dict[str | None, Grouping] = {}
        self._tiles: dict[str, TiledLayers] = {}

    @cached_property
    def statistics(self) -> Statistics:
        return measure_statistics(self.channels, self.weights, self.samples, seed=self.seed)

    @cached_property
    def _fits(self) -> FittedWeights:
        return FittedWeights(self.channels, self.weights, self.samples)

    @cached_property
    def importance(self) -> Importance:
        return importance_of(self.channels, self.arrays, self.statistics)

    @cached_property
    def exact_bytes(self) -> int:
        """Bytes of the exact split by channels, of all layers, in fp32; they depend on the sizes of groups alone."""
        dealt = [np.repeat(np.arange(len(self.shares)), slots(len(each.atoms), self.shares)) for each in self.spaces]
        devices = [each.tolist() for each in dealt]
        return exact_bytes(Placement.of(self.channels, len(self.shares), self.read_out, self.spaces, devices))

    def tiles(self, tensor: str) -> TiledLayers:
        """The layers up to a tensor; raises :class:`SpecError` if tiles cannot end there."""
        if tensor not in self._tiles:
            self._tiles[tensor] = tiled_layers_until(self.channels, tensor, self.shares)
        return self._tiles[tensor]

    def grouping(self, tiles: TiledLayers | None) -> Grouping:
        """The best groups of the channels behind tiled layers."""
        key = None if tiles is None else tiles.tensor
        if key not in self._groupings:
            spaces = self.spaces if tiles is None else groupable(self.channels, len(self.shares), tiles)
            self._groupings[key] = group(self.channels, spaces, self.importance, self.shares, seed=self.seed)
        return self._groupings[key]

    def placement(self, tiles: TiledLayers | None) -> Placement:
        return placed(self.channels, self.grouping(tiles), len(self.shares), self.read_out, tiles)

    def network(self, separation: Separation, thinned: Thinned) -> SeparatedGraph:
        """The separated network of one of its separations, without weights."""
        return separated_graph(self.graph, separation, thinned.mixtures, self.statistics, self.channels)

    def weights_of(self, separated: SeparatedGraph) -> dict[str, Tensor]:
        """The weights of a separated network, cut from the original's."""
        return separated_weights(separated.recipe, self.weights)

    def fitted(self, separated: SeparatedGraph, cut: Mapping[str, Tensor], crossings: Crossings) -> dict[str, Tensor]:
        """Weights that were cut, fitted to what the devices have in fact."""
        return self._fits.of(separated.graph, cut, separated.recipe, crossings)

    def limits(
        self,
        budget: float,
        exchange_points: int | None,
        wire: str,
        message_cost_bytes: float = MESSAGE_COST_BYTES,
    ) -> Limits:
        """Limits with a share of the exact split's bytes; with 1 all that matters is sent."""
        budget_bytes = int(budget * self.exact_bytes) if budget < 1 else None
        return Limits(budget_bytes, exchange_points, formats_of(wire, budget), message_cost_bytes)
