"""Arbitration: the order in which several messages use one wire.

The order must not depend on the links' speeds: then every finish time is a (max, +) expression of message times, and
more bandwidth never makes anything later. A real network serves first come, first served, which no such order
reproduces exactly. Two orders are simulated and the one that finishes sooner is kept: the minimum of two such times
still obeys the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from heapq import heappop, heappush

from sepnas.cost.identity_key import Same
from sepnas.cost.playback import Passage
from sepnas.cost.routes import Network, routes_of
from sepnas.cost.times import has_equal_devices
from sepnas.cost.work import DeviceWork, Posted, Work
from sepnas.plan.steps import CLIENT
from sepnas.spec.cluster import Cluster

_MOMENT_S = 1e-9


def take_turns(work: Work) -> Passage:
    """Play a request in order of tags, or in order of posting; ``work.messages`` is left in the better order.

    The order of tags is right for devices that take equal times over full-duplex links: in a round of tags, no two
    senders share a receiver.
    """
    by_tag = _played(work)
    if work.plan.even and has_equal_devices(work.cluster) and _full_duplex(Same(work.cluster)):
        return by_tag
    tags, work.messages = work.messages, as_devices_come(work)
    found = _played(work)
    if max(found.done_s) < max(by_tag.done_s):
        return found
    work.messages = tags
    return by_tag


def as_devices_come(work: Work) -> list[Posted]:
    """The messages in the order in which they would be posted if their transfer took almost no time."""
    arriving = _Arriving(work)
    return [arriving.messages[tag] for tag in arriving.play()]


def _played(work: Work) -> Passage:
    passage = Passage(work, Network(work.cluster))
    passage.play()
    return passage


@lru_cache(maxsize=16)
def _full_duplex(same: Same[Cluster]) -> bool:
    """Whether a device's sending never delays what another device receives."""
    return all(link.medium != "shared" and link.duplex == "full" for link in same.value.every_link)


class _Arriving:
    """One request whose messages hold their wires for a moment only, first come, first served."""

    def __init__(self, work: Work) -> None:
        self.messages = {message[0]: message for message in work.messages}
        self._routes, self._work = routes_of(work.cluster), work
        self._free_at: dict[int, float] = {}
        self._posted = [(0.0, tag) for tag, pair, _, _ in work.messages if pair[0] == CLIENT]
        self._arrival_s: dict[int, float] = {}

    def play(self) -> Iterator[int]:
        """The tags in order of posting."""
        devices = [self._carry_out(device) for device in self._work.devices]
        for device in devices:
            next(device, None)
        while self._posted:
            posted_s, tag = heappop(self._posted)
            _, pair, _, _ = self.messages[tag]
            self._arrival_s[tag] = self._carry(pair, posted_s)
            yield tag
            if pair[1] != CLIENT:
                next(devices[pair[1]], None)

    def _carry_out(self, device: DeviceWork) -> Iterator[None]:
        """Play one device's legs; yields at a wait for a message that has not been carried yet."""
        now = 0.0
        for seconds, tag, posts in device.legs:
            now += seconds
            if posts:
                heappush(self._posted, (now, tag))
                continue
            while tag not in self._arrival_s:
                yield
            now = max(now, self._arrival_s[tag])

    def _carry(self, pair: tuple[int, int], posted_s: float) -> float:
        route, free_at = self._routes[pair], self._free_at
        if route is None:
            return posted_s
        end_s = max(posted_s, *[free_at.get(resource, 0.0) for resource in route.resources]) + _MOMENT_S
        for resource in route.resources:
            free_at[resource] = end_s
        return end_s
