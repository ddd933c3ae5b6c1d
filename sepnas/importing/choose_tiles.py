"""Which layers stay exact, in tiles: those with which little is lost, and that are nearly as fast as any."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SpecError
from sepnas.importing.separator import Separator
from sepnas.separation.bases import Bases
from sepnas.separation.channels import ChannelMap
from sepnas.separation.separate import separation_within
from sepnas.separation.thinning import Limits, Offers
from sepnas.separation.tiled_layers import TiledLayers, tile_ends
from sepnas.spec.cluster import Cluster

_MIN_SAVING = 0.5
"""The share that rims must leave of the work that tiles without rims would save a device."""
_SLOWER = 1.5
"""Tiles may take this much longer than the fastest choice, if less is lost."""


def choose_tiles(of: Separator, limits: Limits, cluster: Cluster) -> TiledLayers | None:
    """The layers with which least is lost, at a predicted latency of 1.5 times the lowest at most; None: no tiles.

    Tiles that are mostly rims are left out: each device would compute, and keep, most of the network. So are those with
    too few channels behind them. Raises :class:`SpecError` if the budget suffices for none.
    """
    if len(of.shares) == 1 or cluster.missing_links(len(of.shares)):  # without a link nothing can be predicted
        return None
    ends = [each for each in map(of.tiles, narrowing_ends(of.channels)) if _saves(each)]
    if not ends:
        return None
    placement, found = of.placement(None), list[tuple[float, float, TiledLayers | None]]()
    refused: SpecError | PlanError | None = None
    bases = Bases(of.arrays, of.statistics)
    for tiles in (None, *ends):
        tiled = placement if tiles is None else placement.tiled(tiles)
        try:
            separation, thinned = separation_within(Offers(tiled, bases), limits)
        except (SpecError, PlanError) as error:  # tiles have other messages that must be sent, and fewer layers behind
            refused = refused or error
            continue
        found.append((simulate(of.network(separation, thinned).plan(), cluster).latency_s, thinned.lost, tiles))
    if refused and not found:
        raise refused
    fastest = min(latency_s for latency_s, _, _ in found)
    fast = [(lost, latency_s, tiles) for latency_s, lost, tiles in found if latency_s <= _SLOWER * fastest]
    return min(fast, key=lambda each: each[:2])[2]


def _saves(tiles: TiledLayers) -> bool:
    count = len(tiles.shares)
    return 1 - tiles.repeated_work / count >= _MIN_SAVING * (1 - 1 / count)


def narrowing_ends(channels: ChannelMap) -> Iterator[str]:
    """The tensors with which tiles may end that are smaller than all such tensors before."""
    least = None
    for name in tile_ends(channels):
        size = math.prod(channels.graph.tensors[name].dims)
        if least is None or size < least:
            yield name
            least = size
