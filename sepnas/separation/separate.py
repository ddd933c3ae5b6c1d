"""A separation from a placement of channels: what crosses within a budget, as a document, with its mixtures."""

from __future__ import annotations

from sepnas.separation.bases import Bases
from sepnas.separation.document import Separation, SpaceData, TilesData, digest_of
from sepnas.separation.importance import Weights
from sepnas.separation.spaces import Placement, groupable
from sepnas.separation.statistics import Statistics
from sepnas.separation.thinning import NO_LIMITS, Limits, Offers, Thinned


def separation_of(
    placement: Placement,
    weights: Weights,
    statistics: Statistics | None = None,
    limits: Limits = NO_LIMITS,
) -> tuple[Separation, Thinned]:
    """The separation of a placement within limits, and its messages with their mixtures.

    Without limits, all that matters crosses. Raises :class:`SpecError` if a budget above 0 does not suffice for what
    must be sent.
    """
    return separation_within(Offers(placement, Bases(weights, statistics or Statistics())), limits)


def separation_within(offers: Offers, limits: Limits) -> tuple[Separation, Thinned]:
    """The separation of a placement whose possible messages are known, within limits; as :func:`separation_of`."""
    placement, thinned = offers.placement, offers.within(limits)
    channels, devices, tiles = placement.channels, placement.devices, placement.tiles
    spaces = groupable(channels, placement.num_devices, tiles)
    separation = Separation(
        network=channels.graph.name,
        graph=digest_of(channels.graph),
        num_devices=placement.num_devices,
        read_out=placement.read_out,
        tiles=TilesData(tensor=tiles.tensor, shares=tiles.shares) if tiles else None,
        spaces=tuple(
            SpaceData(name=space.name, devices=tuple(devices[list(space.atoms)].tolist())) for space in spaces
        ),
        crossings=thinned.crossings,
    )
    return separation, thinned
