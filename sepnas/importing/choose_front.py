"""Which layers stay exact, in tiles: a front that loses little, and is computed nearly as fast as the fastest one."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sepnas.cost.simulator import simulate
from sepnas.errors import SpecError
from sepnas.importing.separator import Separator
from sepnas.separation.channels import ChannelMap
from sepnas.separation.front import Front, cuts_of
from sepnas.separation.network import separated_graph
from sepnas.separation.separate import separation_of
from sepnas.separation.thinning import Limits
from sepnas.spec.cluster import Cluster

_LEAST_SAVING = 0.5
"""The share that rims must leave of the work that tiles without rims would save a device."""
_SLOWER = 1.25
"""A front may take this much longer than the fastest one, if it loses less."""


def choose_front(of: Separator, limits: Limits, cluster: Cluster) -> Front | None:
    """The front that loses least of those whose predicted latency is within a quarter of the lowest; None: no tiles.

    Fronts whose tiles are mostly rims are left out: each device would compute, and keep, most of the network.
    Raises :class:`SpecError` if the budget suffices for none.
    """
    if cluster.missing_links(len(of.shares)):  # nothing can be predicted
        return None
    fronts = [each for each in map(of.front, narrowing_cuts(of.channels)) if _saves(each)]
    if not fronts:
        return None
    placement, found = of.placement(None), list[tuple[float, float, Front | None]]()
    short: SpecError | None = None
    for front in (None, *fronts):
        tiled = placement if front is None else placement.tiled(front)
        try:
            separation, thinned = separation_of(tiled, of.arrays, of.statistics, limits)
        except SpecError as error:  # tiles have other messages that must be sent
            short = short or error
            continue
        made = separated_graph(of.graph, separation, thinned.mixtures, of.statistics, of.channels)
        found.append((simulate(made.plan(), cluster).latency_s, thinned.lost, front))
    if short and not found:
        raise short
    fastest = min(latency_s for latency_s, _, _ in found)
    fast = [(lost, latency_s, front) for latency_s, lost, front in found if latency_s <= _SLOWER * fastest]
    return min(fast, key=lambda each: each[:2])[2]


def _saves(front: Front) -> bool:
    count = len(front.shares)
    return 1 - front.repeated_work / count >= _LEAST_SAVING * (1 - 1 / count)


def narrowing_cuts(channels: ChannelMap) -> Iterator[str]:
    """The tensors with which a front may end that are smaller than all such tensors before."""
    least = None
    for name in cuts_of(channels):
        size = math.prod(channels.graph.tensors[name].dims)
        if least is None or size < least:
            yield name
            least = size
