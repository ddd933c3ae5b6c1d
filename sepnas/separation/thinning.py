"""Thins what crosses between devices: under a budget of bytes, the channels that matter most are sent.

The value of a channel for a device is its importance for the layers that mix it there, its cost the bytes of its values
in the wire format, and each message has a fixed cost besides, so that messages of little use are dropped whole. At a
price per byte, a message holds the channels that are worth more than they cost, and is sent if together they also pay
for the message; the price is the lowest at which the budget suffices. What is left of the budget goes to the channels
of the highest value per byte, in messages that are sent anyway before others.

Fixed demands (:mod:`sepnas.separation.demands`) are always sent, and so is one channel to a device that would have none
of a layer's input: with a budget of nothing, these remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.plan.wire import FRAME_HEADER_BYTES, UNCONVERTED, WireFormat, payload_bytes
from sepnas.separation.atoms import Labels
from sepnas.separation.demands import Demand, crossing, demands_of
from sepnas.separation.document import CrossingData
from sepnas.separation.importance import Importance
from sepnas.separation.spaces import Placement
from sepnas.spec.cluster import Cluster

MESSAGE_COST_BYTES = FRAME_HEADER_BYTES + 6_250
"""The fixed cost of a message: its header, and what a link of 100 Mbit/s carries in its latency, 0.5 ms."""
_STEPS = 60
"""Halvings of the interval that holds the price."""


@dataclass(frozen=True, eq=False)
class _Offer:
    """A possible message: its channels by value, the highest first. The first ``forced`` are sent anyway."""

    tensor: str
    source: int
    destination: int
    channels: Labels
    values: npt.NDArray[np.float64]
    channel_values: int
    forced: int = 0

    def bytes(self, count: int, wire: WireFormat) -> int:
        return payload_bytes(count * self.channel_values, wire) if count else 0


def thin(
    placement: Placement,
    importance: Importance,
    budget_bytes: int | None = None,
    wire: WireFormat = UNCONVERTED,
    message_cost_bytes: float = MESSAGE_COST_BYTES,
) -> tuple[CrossingData, ...]:
    """The messages of a separation within a budget: all channels without one, and only the necessary ones for 0.

    Raises :class:`SpecError` if a budget above 0 does not suffice for the necessary messages.
    """
    offers = [each for demand in demands_of(placement) for each in _offers(placement, demand, importance)]
    if budget_bytes is None:
        counts = [len(each.channels) for each in offers]
    else:
        counts = [each.forced for each in offers]
        needed = _total(offers, counts, wire)
        if 0 < budget_bytes < needed:
            raise SpecError(
                f"a budget of {budget_bytes:,} bytes is {needed - budget_bytes:,} short of the {needed:,} that the "
                f"read-out device and layers that are not grouped need in {wire}; 0 leaves only these"
            )
        if budget_bytes:
            counts = _within(offers, budget_bytes, wire, message_cost_bytes)
    return tuple(
        CrossingData(
            tensor=each.tensor, source=each.source, destination=each.destination,
            channels=tuple(sorted(each.channels[:count].tolist())),
        )
        for each, count in zip(offers, counts, strict=True) if count
    )  # fmt: skip


def _offers(placement: Placement, demand: Demand, importance: Importance) -> Iterator[_Offer]:
    """The possible messages of a demand, one from each device that has channels of it."""
    channels, devices = crossing(placement, demand), placement.of_tensor(demand.tensor)
    values = _values(placement, demand, importance, len(devices))
    lacking = not demand.is_fixed and not len(placement.own(demand.tensor, demand.device))
    best = channels[np.argmax(values[channels])]
    for source in sorted(set(devices[channels].tolist())):
        own = channels[devices[channels] == source]
        own = own[np.argsort(-values[own], kind="stable")]
        forced = len(own) if demand.is_fixed else int(lacking and devices[best] == source)
        yield _Offer(
            demand.tensor, source, demand.device, own, values[own], placement.channel_values[demand.tensor], forced
        )


def _values(placement: Placement, demand: Demand, importance: Importance, count: int) -> npt.NDArray[np.float64]:
    """The importance of each channel of a tensor for the layers of a device."""
    found = np.zeros(count)
    for layer in demand.layers:
        outputs = placement.own(layer.output, demand.device)
        found += importance[layer.node.name][outputs].sum(0)
    return found


def _total(offers: list[_Offer], counts: list[int], wire: WireFormat) -> int:
    return sum(each.bytes(count, wire) for each, count in zip(offers, counts, strict=True))


def _within(offers: list[_Offer], budget_bytes: int, wire: WireFormat, message_cost_bytes: float) -> list[int]:
    """The number of channels of each message within the budget."""
    costs = [each.bytes(64, wire) / 64 for each in offers]  # bytes of a channel, without a sample's header
    low, high = 0.0, max((float(o.values[0]) / c for o, c in zip(offers, costs, strict=True)), default=0.0) + 1e-30
    counts = [_worth(each, low, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
    for _ in range(_STEPS if _total(offers, counts, wire) > budget_bytes else 0):
        price = (low + high) / 2
        found = [_worth(each, price, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
        low, high = (price, high) if _total(offers, found, wire) > budget_bytes else (low, price)
    if high < np.inf and _total(offers, counts, wire) > budget_bytes:
        counts = [_worth(each, high, cost, message_cost_bytes) for each, cost in zip(offers, costs, strict=True)]
    return _filled(offers, counts, costs, budget_bytes, wire)


def _worth(offer: _Offer, price: float, cost: float, message_cost_bytes: float) -> int:
    """The number of channels of a message that are worth their price; only the forced ones if it does not pay."""
    gains = offer.values - price * cost
    count = max(int((gains > 0).sum()), offer.forced)
    pays = gains[offer.forced : count].sum() > (0 if offer.forced else price * message_cost_bytes)
    return count if pays else offer.forced


def _filled(
    offers: list[_Offer], counts: list[int], costs: list[float], budget_bytes: int, wire: WireFormat
) -> list[int]:
    """Add channels by value per byte until nothing more fits: first to messages that are sent, then in new ones."""
    counts = list(counts)
    left = budget_bytes - _total(offers, counts, wire)
    more = [
        (not counts[index], -float(each.values[place]) / costs[index], index, place)
        for index, each in enumerate(offers)
        for place in range(counts[index], len(each.channels))
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
