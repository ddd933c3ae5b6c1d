"""What a message between two devices of a cluster occupies, and how long: looked up once for each pair."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from sepnas.plan.steps import CLIENT
from sepnas.spec.cluster import Cluster, Link


@dataclass(frozen=True, slots=True)
class Route:
    """A way: the ``resources``, by number, that one message at a time may use, and what a message takes there."""

    resources: tuple[int, ...]
    bandwidth_bytes_per_s: float
    latency_s: float
    message_overhead_s: float


class Routes(dict[tuple[int, int], Route | None]):
    """By (source, destination). None: between client and device without a ``client_link``; it costs nothing.

    Raises :class:`PlanError` for two devices without a link.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self._numbers: dict[Hashable, int] = {}

    def __missing__(self, pair: tuple[int, int]) -> Route | None:
        link = self.cluster.client_link if CLIENT in pair else self.cluster.link(*pair)
        route = None
        if link is not None:
            resources = tuple(self._numbers.setdefault(r, len(self._numbers)) for r in _resources(link, *pair))
            route = Route(resources, link.bandwidth_bytes_per_s, link.latency_s, link.message_overhead_s)
        self[pair] = route
        return route


def routes_of(cluster: Cluster) -> Routes:
    """The same object for the same cluster."""
    return _routes_of(_Same(cluster))


class _Same:
    """A key by identity: hashing a whole cluster would cost more than simulating on it."""

    __slots__ = ("cluster",)

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __hash__(self) -> int:
        return id(self.cluster)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.cluster is self.cluster


@lru_cache(maxsize=16)
def _routes_of(same: _Same) -> Routes:
    return Routes(same.cluster)


def _resources(link: Link, source: int, destination: int) -> tuple[Hashable, ...]:
    """What a message occupies while it is on the wire (see :class:`Link`)."""
    if link.medium == "shared":
        return ("air",)
    if link.medium == "switch":
        if link.duplex == "half":
            return (("port", source), ("port", destination))
        return (("out", source), ("in", destination))
    return (("cable", source, destination) if link.duplex == "full" else ("cable", frozenset((source, destination))),)
