"""Thins what crosses between devices: under a budget of bytes, the mixtures of channels that matter most are sent.

The value of a mixture for a device is what its absence costs there (:mod:`sepnas.separation.mixtures`), its cost the
bytes of its values in the wire format. Each message has a fixed cost besides, on slow links more than its header, so
that messages of little use are dropped whole. At a price per byte, a message holds the mixtures that are worth more
than they cost, and is sent if together they also pay for the message; the price is the lowest at which the budget
suffices. What is left of the budget goes to the mixtures of the highest value per byte, in messages that are sent
anyway before others.

Fixed demands (:mod:`sepnas.separation.demands`) are always sent, and so is one mixture to a device that would have none
of a layer's input: with a budget of nothing, these remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sepnas.errors import SpecError
from sepnas.plan.wire import FRAME_HEADER_BYTES, UNCONVERTED, WireFormat, payload_bytes
from sepnas.separation.atoms import Labels
from sepnas.separation.demands import Demand, crossing, demands_of
from sepnas.separation.document import CrossingData
from sepnas.separation.importance import Weights
from sepnas.separation.mixtures import Basis, known_to, readers_of
from sepnas.separation.pieces import Message
from sepnas.separation.spaces import Placement
from sepnas.separation.statistics import Array, Statistics
from sepnas.spec.cluster import Cluster

MESSAGE_COST_BYTES = FRAME_HEADER_BYTES
"""The fixed cost of a message where no cluster is known: its header."""
_STEPS = 60
"""Halvings of the interval that holds the price."""


@dataclass(frozen=True, eq=False)
class _Offer:
    """A possible message: the values of what it may hold, the highest first. The first ``forced`` are sent anyway.

    It holds mixtures of ``channels``; without a ``basis``, the channels themselves.
    """

    tensor: str
    source: int
    destination: int
    channels: Labels
    values: Array
    channel_values: int
    forced: int = 0
    basis: Basis | None = None

    def bytes(self, count: int, wire: WireFormat) -> int:
        return payload_bytes(count * self.channel_values, wire) if count else 0


@dataclass(frozen=True, eq=False)
class Thinned:
    """The messages of a separation, and the mixtures ``(K, channels)`` of those that do not hold channels."""

    crossings: tuple[CrossingData, ...]
    mixtures: Mapping[Message, Array]


def thin(
    placement: Placement,
    weights: Weights,
    statistics: Statistics,
    budget_bytes: int | None = None,
    wire: WireFormat = UNCONVERTED,
    message_cost_bytes: float = MESSAGE_COST_BYTES,
) -> Thinned:
    """The messages of a separation within a budget: all that matters without one, and only the necessary ones for 0.

    Raises :class:`SpecError` if a budget above 0 does not suffice for the necessary messages.
    """
    offers = [each for d in demands_of(placement) for each in _offers(placement, d, weights, statistics)]
    if budget_bytes is None:
        counts = [len(each.values) for each in offers]
    else:
        counts = [each.forced for each in offers]
        needed = _total(offers, counts, wire)
        if 0 < budget_bytes < needed:
            raise SpecError(
                f"a budget of {budget_bytes:,} bytes is {needed - budget_bytes:,} short of the {needed:,} that the "
                f"read-out device and layers that are not grouped need in {wire}; 0 leaves only these"
            )
        if budget_bytes:
            # a device sends to all others at once, so that these messages share the link's latency
            each_bytes = message_cost_bytes / max(1, placement.num_devices - 1)
            counts = _within(offers, budget_bytes, wire, each_bytes)
    sent = [(each, count) for each, count in zip(offers, counts, strict=True) if count]
    return Thinned(
        tuple(_crossing(each, count) for each, count in sent),
        {
            (each.tensor, each.source, each.destination): each.basis.mixtures[:count]
            for each, count in sent if each.basis is not None and count < len(each.channels)
        },
    )  # fmt: skip


def _crossing(offer: _Offer, count: int) -> CrossingData:
    return CrossingData(
        tensor=offer.tensor, source=offer.source, destination=offer.destination,
        channels=tuple(offer.channels.tolist()), mixtures=count if count < len(offer.channels) else 0,
    )  # fmt: skip


def _offers(placement: Placement, demand: Demand, weights: Weights, statistics: Statistics) -> list[_Offer]:
    """The possible messages of a demand, one from each device that has channels of it."""
    channels, devices = crossing(placement, demand), placement.of_tensor(demand.tensor)
    own_of = {source: channels[devices[channels] == source] for source in sorted(set(devices[channels].tolist()))}
    if demand.is_fixed:
        return [_sent_anyway(placement, demand, source, own) for source, own in own_of.items()]
    known = known_to(placement, statistics, demand.tensor, demand.device)
    readers = readers_of(placement, demand.layers, demand.device, weights, statistics)
    found, values = [], placement.channel_values[demand.tensor]
    for source, own in own_of.items():
        basis = known.basis(own, readers[:, own])
        if len(basis.values):
            found.append(_Offer(demand.tensor, source, demand.device, own, basis.values, values, basis=basis))
    if len(placement.own(demand.tensor, demand.device)):
        return found
    if not found:  # a layer takes an input even if all of its weights for it are zero
        return [_sent_anyway(placement, demand, source, own[:1]) for source, own in list(own_of.items())[:1]]
    best = max(found, key=lambda each: float(each.values[0]))
    return [replace(each, forced=int(each is best)) for each in found]


def _sent_anyway(placement: Placement, demand: Demand, source: int, channels: Labels) -> _Offer:
    """A message of channels that does not depend on the budget."""
    values = placement.channel_values[demand.tensor]
    return _Offer(
        demand.tensor, source, demand.device, channels, np.full(len(channels), np.inf), values, forced=len(channels)
    )


def _total(offers: list[_Offer], counts: list[int], wire: WireFormat) -> int:
    return sum(each.bytes(count, wire) for each, count in zip(offers, counts, strict=True))


def _within(offers: list[_Offer], budget_bytes: int, wire: WireFormat, message_cost_bytes: float) -> list[int]:
    """The number of mixtures of each message within the budget."""
    costs = [each.bytes(64, wire) / 64 for each in offers]  # bytes of a mixture, without a sample's header
    prices = [float(o.values[0]) / c for o, c in zip(offers, costs, strict=True) if o.forced < len(o.values)]
    low, high = 0.0, max(prices, default=0.0) + 1e-30
    counts = [_worth(each, low, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
    for _ in range(_STEPS if _total(offers, counts, wire) > budget_bytes else 0):
        price = (low + high) / 2
        found = [_worth(each, price, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
        low, high = (price, high) if _total(offers, found, wire) > budget_bytes else (low, price)
    if high < np.inf and _total(offers, counts, wire) > budget_bytes:
        counts = [_worth(each, high, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
    return _filled(offers, counts, costs, budget_bytes, wire)


def _worth(offer: _Offer, price: float, cost: float, message_cost_bytes: float) -> int:
    """The number of mixtures of a message that are worth their price; only the forced ones if it does not pay."""
    if offer.forced == len(offer.values):
        return offer.forced
    gains = offer.values - price * cost
    count = max(int((gains > 0).sum()), offer.forced)
    pays = gains[offer.forced : count].sum() > (0 if offer.forced else price * message_cost_bytes)
    return count if pays else offer.forced


def _filled(
    offers: list[_Offer], counts: list[int], costs: list[float], budget_bytes: int, wire: WireFormat
) -> list[int]:
    """Add mixtures by value per byte until nothing more fits: first to messages that are sent, then in new ones."""
    counts = list(counts)
    left = budget_bytes - _total(offers, counts, wire)
    more = [
        (not counts[index], -float(each.values[place]) / costs[index], index, place)
        for index, each in enumerate(offers)
        for place in range(counts[index], len(each.values))
    ]
    for _, _, index, place in sorted(more):
        extra = offers[index].bytes(place + 1, wire) - offers[index].bytes(place, wire)
        if place == counts[index] and extra <= left:
            counts[index], left = place + 1, left - extra
    return counts


def message_cost_bytes(cluster: Cluster) -> float:
    """The fixed cost of a message on a cluster: its header, and what a link carries in its latency, on average."""
    found = [link.bandwidth_bytes_per_s * (link.latency_s + link.message_overhead_s) for link in cluster.links]
    return FRAME_HEADER_BYTES + (sum(found) / len(found) if found else 0.0)
