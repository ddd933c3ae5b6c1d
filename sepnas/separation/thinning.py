"""Thins what crosses between devices: within limits, the mixtures of channels that matter most are sent.

The value of a mixture for a device is what its absence costs there (:mod:`sepnas.separation.mixtures`), its cost the
bytes of its values in a wire format, whose rounding takes a known share of the value. Each message has a fixed cost
besides, its header at least, so that messages of little use are dropped whole. At a price per byte, a message holds
the mixtures that are worth more than they cost, in the format in which this leaves most, and is sent if together they
also pay for the message; of exchange points, those that gain most remain. The price is the lowest at which the budget
suffices. What is left of the budget goes to the mixtures of the highest value per byte, in messages that are sent
anyway before others.

With the latency of links as the fixed cost, a message that is worth less than the bytes that a link carries in that
time is dropped, and its bytes go to others.

Fixed demands (:mod:`sepnas.separation.demands`) are always sent, in the finest format, and so is one mixture to a
device that would have none of a layer's input: with a budget of nothing, these remain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from sepnas.errors import SpecError
from sepnas.plan.wire import FRAME_HEADER_BYTES, UNCONVERTED, WIRE_FORMATS, WireFormat, payload_bytes
from sepnas.separation.atoms import TILED, Labels
from sepnas.separation.bases import Bases
from sepnas.separation.demands import Demand, crossing, demands_of
from sepnas.separation.document import CrossingData
from sepnas.separation.importance import Weights
from sepnas.separation.mixtures import Basis, rounding_of
from sepnas.separation.pieces import Message
from sepnas.separation.spaces import Placement
from sepnas.separation.statistics import Array, Statistics
from sepnas.spec.cluster import Cluster

MESSAGE_COST_BYTES = FRAME_HEADER_BYTES
"""The fixed cost of a message where no cluster is known: its header."""
_STEPS = 60
"""Halvings of the interval that holds the price."""


Messages = Literal["any", "few"]
ANY, FEW = MESSAGES = get_args(Messages)
"""How many messages there may be: all that pay for their headers, or only those that are worth a link's latency."""
AUTO = "auto"
"""The wire format that is best for each message."""
_USEFUL_FORMATS = tuple(wire for wire in WIRE_FORMATS if rounding_of(wire) < 0.5)
"""The formats in which most of a mixture's value arrives, from the finest to the coarsest."""


def formats_of(wire: str, budget: float) -> tuple[WireFormat, ...]:
    """The formats that messages may have; with all that matters sent, ``auto`` is fp32, so that it is exact."""
    if wire != AUTO:
        return (wire,)
    return _USEFUL_FORMATS if budget < 1 else (UNCONVERTED,)


@dataclass(frozen=True)
class Limits:
    """What may cross for one sample: ``budget_bytes`` at ``exchange_points``, None for any number of them.

    Exchange points at which a device would have none of a layer's input are always among these, even if they are more.
    Each message is in one of ``wires``, from the finest to the coarsest. ``message_cost_bytes`` is its fixed cost, of
    which the messages that a device sends at once have a part each.
    """

    budget_bytes: int | None = None
    exchange_points: int | None = None
    wires: tuple[WireFormat, ...] = (UNCONVERTED,)
    message_cost_bytes: float = MESSAGE_COST_BYTES


NO_LIMITS = Limits()


@dataclass(frozen=True, eq=False)
class _Offer:
    """A possible message: the values of what it may hold, the highest first. The first ``forced`` are sent anyway.

    It holds mixtures of ``channels``; without a ``basis``, the channels themselves. ``channel_values`` are those of one
    in each message: several for the tiles of several devices.
    """

    tensor: str
    source: int | None
    destination: int
    channels: Labels
    values: Array
    channel_values: tuple[int, ...]
    forced: int = 0
    basis: Basis | None = None
    _sums: dict[WireFormat, Array] = field(init=False, default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.forced < len(self.values)

    @property
    def is_needed(self) -> bool:
        """Whether some of its mixtures are sent anyway, because its device has nothing else of a layer's input."""
        return self.basis is not None and self.forced > 0

    def values_in(self, wire: WireFormat) -> Array:
        """What arrives of the values in a format."""
        return self.values if self.basis is None else self.basis.values_in(wire)

    def sums(self, wire: WireFormat) -> Array:
        """The value that arrives of the first so many mixtures in a format: ``(K + 1,)``."""
        if wire not in self._sums:
            self._sums[wire] = np.concatenate([[0.0], np.cumsum(self.values_in(wire))])
        return self._sums[wire]

    def bytes(self, filling: _Filling) -> int:
        if not filling.count:
            return 0
        return sum(payload_bytes(filling.count * each, filling.wire) for each in self.channel_values)

    def lost(self, filling: _Filling) -> float:
        """The value of what a filling leaves out, or rounds away."""
        if self.basis is None:
            return 0.0
        return float(self.values.sum() - self.sums(filling.wire)[filling.count])

    def mixture_bytes(self, wire: WireFormat) -> float:
        """Bytes of one mixture, without a sample's header."""
        return payload_bytes(64 * sum(self.channel_values), wire) / 64


@dataclass(frozen=True)
class _Filling:
    """What a message holds: so many mixtures, in a format; ``gain`` is what they are worth beyond their price."""

    count: int
    wire: WireFormat
    gain: float = 0.0


@dataclass(frozen=True, eq=False)
class Thinned:
    """The messages of a separation, and the mixtures ``(K, channels)`` of those that do not hold channels.

    ``lost`` is the value of what is not sent, and of what rounding takes: nats, if statistics were measured.
    """

    crossings: tuple[CrossingData, ...]
    mixtures: Mapping[Message, Array]
    lost: float


def thin(placement: Placement, weights: Weights, statistics: Statistics, limits: Limits = NO_LIMITS) -> Thinned:
    """The messages of a separation within limits; see :meth:`Offers.within`."""
    return Offers(placement, Bases(weights, statistics)).within(limits)


class Offers:
    """The possible messages of a placement, with the values of what they may hold: found once, for any limits."""

    def __init__(self, placement: Placement, bases: Bases) -> None:
        self.placement = placement
        self._offers = [each for demand in demands_of(placement) for each in _offers(placement, demand, bases)]

    def needed_bytes(self, limits: Limits) -> int:
        """Bytes of the necessary messages, which a budget above 0 must suffice for."""
        return self._thinning(limits).needed_bytes

    def within(self, limits: Limits) -> Thinned:
        """The messages within limits: all that matters without any, only the necessary ones for 0 bytes.

        Raises :class:`SpecError` if a budget above 0 does not suffice for the necessary messages.
        """
        filled = list(zip(self._offers, self._thinning(limits).fillings(), strict=True))
        sent = [(each, filling) for each, filling in filled if filling.count]
        return Thinned(
            tuple(_crossing(each, filling) for each, filling in sent),
            {
                (each.tensor, each.source, each.destination): each.basis.mixtures[: filling.count]
                for each, filling in sent if each.basis is not None and filling.count < len(each.channels)
            },
            sum(each.lost(filling) for each, filling in filled),
        )  # fmt: skip

    def _thinning(self, limits: Limits) -> _Thinning:
        # a device sends to all others at once, so that these messages share the link's latency
        each_bytes = limits.message_cost_bytes / max(1, self.placement.num_devices - 1)
        return _Thinning(self._offers, limits, each_bytes)


def _crossing(offer: _Offer, filling: _Filling) -> CrossingData:
    return CrossingData(
        tensor=offer.tensor, source=offer.source, destination=offer.destination,
        channels=tuple(offer.channels.tolist()),
        mixtures=filling.count if filling.count < len(offer.channels) else 0, wire=filling.wire,
    )  # fmt: skip


def _offers(placement: Placement, demand: Demand, bases: Bases) -> list[_Offer]:
    """The possible messages of a demand, one from each device that has channels of it."""
    channels, devices = crossing(placement, demand), placement.of_tensor(demand.tensor)
    own_of = {
        None if source == TILED else source: channels[devices[channels] == source]
        for source in sorted(set(devices[channels].tolist()))
    }
    if demand.is_fixed or not all(placement.message_values(demand.tensor, each, demand.device) for each in own_of):
        # a device whose tile is all of the map has all channels without any message
        return [_sent_anyway(placement, demand, source, own) for source, own in own_of.items()]
    found = []
    for (source, own), basis in zip(own_of.items(), bases.of(placement, demand, list(own_of.values())), strict=True):
        if len(basis.values):
            values = placement.message_values(demand.tensor, source, demand.device)
            found.append(_Offer(demand.tensor, source, demand.device, own, basis.values, values, basis=basis))
    if len(placement.own(demand.tensor, demand.device)):
        return found
    if not found:  # a layer takes an input even if all of its weights for it are zero
        return [_sent_anyway(placement, demand, source, own[:1]) for source, own in list(own_of.items())[:1]]
    best = max(found, key=lambda each: float(each.values[0]))
    return [replace(each, forced=int(each is best)) for each in found]


def _sent_anyway(placement: Placement, demand: Demand, source: int | None, channels: Labels) -> _Offer:
    """A message of channels that does not depend on the budget."""
    values = placement.message_values(demand.tensor, source, demand.device)
    return _Offer(
        demand.tensor, source, demand.device, channels, np.full(len(channels), np.inf), values, forced=len(channels)
    )


class _Thinning:
    """The filling of each possible message within limits."""

    def __init__(self, offers: Sequence[_Offer], limits: Limits, message_cost_bytes: float) -> None:
        self.offers, self.limits, self.message_cost_bytes = offers, limits, message_cost_bytes
        self.finest, self.coarsest = limits.wires[0], limits.wires[-1]

    def fillings(self) -> list[_Filling]:
        budget, needed = self.limits.budget_bytes, self.needed_bytes
        if budget is None:
            return self._at_points(
                [_Filling(len(o.values), self.finest, float(o.sums(self.finest)[-1])) for o in self.offers]
            )
        if 0 < budget < needed:
            raise SpecError(
                f"a budget of {budget:,} bytes is {needed - budget:,} short of the {needed:,} that the read-out device "
                f"and layers that are not grouped need in {self.finest}; 0 leaves only these"
            )
        return self._within(budget) if budget else self._necessary

    @property
    def needed_bytes(self) -> int:
        return self._total(self._necessary)

    @cached_property
    def _necessary(self) -> list[_Filling]:
        return [self._forced(each) for each in self.offers]

    def _forced(self, offer: _Offer) -> _Filling:
        return _Filling(offer.forced, self.finest)

    def _total(self, fillings: Sequence[_Filling]) -> int:
        return sum(each.bytes(filling) for each, filling in zip(self.offers, fillings, strict=True))

    def _within(self, budget_bytes: int) -> list[_Filling]:
        """The most valuable messages within a budget."""
        prices = [float(o.values[0]) / o.mixture_bytes(self.coarsest) for o in self.offers if o.is_open]
        low, high = 0.0, max(prices, default=0.0) + 1e-30
        found = self._at_price(low)
        if self._total(found) > budget_bytes:
            found = self._at_price(high)
            for _ in range(_STEPS):
                price = (low + high) / 2
                tried = self._at_price(price)
                if self._total(tried) > budget_bytes:
                    low = price
                else:
                    high, found = price, tried
        return self._filled(found, budget_bytes)

    def _at_price(self, price: float) -> list[_Filling]:
        """What is worth a price per byte."""
        return self._at_points([self._worth(each, price) for each in self.offers])

    def _worth(self, offer: _Offer, price: float) -> _Filling:
        """The mixtures that are worth their price; only the forced ones if a message of more does not pay."""
        if not offer.is_open:
            return self._forced(offer)
        found = [self._worth_in(wire, offer, price) for wire in reversed(self.limits.wires)]
        best = max(found, key=lambda each: each.gain)
        pays = best.gain > (0 if offer.forced else price * self.message_cost_bytes)
        return best if pays else self._forced(offer)

    def _worth_in(self, wire: WireFormat, offer: _Offer, price: float) -> _Filling:
        sums, counts = offer.sums(wire)[offer.forced :], np.arange(len(offer.values) - offer.forced + 1)
        gains = sums - sums[0] - price * offer.mixture_bytes(wire) * counts
        count = int(gains.argmax())
        return _Filling(offer.forced + count, wire, float(gains[count]))

    def _at_points(self, fillings: list[_Filling]) -> list[_Filling]:
        """The fillings of the exchange points that gain most, first of all those that are needed; elsewhere what is."""
        if self.limits.exchange_points is None:
            return fillings
        gains = defaultdict[str, float](float)
        for offer, filling in zip(self.offers, fillings, strict=True):
            if offer.is_needed:
                gains[offer.tensor] = np.inf
            elif offer.is_open and filling.count > offer.forced:
                gains[offer.tensor] += filling.gain
        needed = sum(gain == np.inf for gain in gains.values())
        count = max(needed, self.limits.exchange_points)
        kept = set(sorted(gains, key=lambda tensor: -gains[tensor])[:count])
        return [
            filling if offer.tensor in kept else self._forced(offer)
            for offer, filling in zip(self.offers, fillings, strict=True)
        ]

    def _filled(self, fillings: list[_Filling], budget_bytes: int) -> list[_Filling]:
        """Add mixtures by value per byte until nothing more fits: first to messages that are sent, then in new ones."""
        found, left = list(fillings), budget_bytes - self._total(fillings)
        points = {offer.tensor for offer, filling in zip(self.offers, found, strict=True) if filling.count}
        all_points = self.limits.exchange_points is None
        more = []
        for index, (offer, filling) in enumerate(zip(self.offers, found, strict=True)):
            if all_points or offer.tensor in points:
                wire = filling.wire if filling.count else self.coarsest
                values, cost = offer.values_in(wire), offer.mixture_bytes(wire)
                more += [
                    (not filling.count, -float(values[place]) / cost, index, place, wire)
                    for place in range(filling.count, len(offer.values))
                ]
        for _, _, index, place, wire in sorted(more):
            now, then = found[index], _Filling(place + 1, wire)
            extra = self.offers[index].bytes(then) - self.offers[index].bytes(now)
            if place == now.count and extra <= left:
                found[index], left = then, left - extra
        return found


def message_cost_bytes(cluster: Cluster, num_devices: int, messages: Messages = FEW) -> float:
    """The fixed cost of a message between the first devices of a cluster.

    It is the header; with ``few`` messages also what a link carries in its latency, on average of the pairs that have
    one.
    """
    if messages == ANY:
        return MESSAGE_COST_BYTES
    missing = {frozenset(pair) for pair in cluster.missing_links(num_devices)}
    names = [each.name for each in cluster.devices[:num_devices]]
    pairs = [(a, b) for a, b in combinations(range(num_devices), 2) if {names[a], names[b]} not in missing]
    links = [cluster.link(*pair) for pair in pairs]
    found = [link.bandwidth_bytes_per_s * (link.latency_s + link.message_overhead_s) for link in links]
    return FRAME_HEADER_BYTES + (sum(found) / len(found) if found else 0.0)
