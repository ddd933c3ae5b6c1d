"""Resources and times of a message between two devices of a cluster, computed once for each pair."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from sepnas.cost.identity_key import Same
from sepnas.cost.threads import read, write
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES, PIECE_BYTES
from sepnas.spec.cluster import Cluster, Link


@dataclass(frozen=True, slots=True)
class Threads:
    """Times of a message in its sender's writer thread and its receiver's reader thread.

    Each thread handles one message at a time; ``writer`` and ``reader`` are their numbers among the resources.
    """

    writer: int
    write_message_s: float
    write_byte_s: float
    reader: int
    read_message_s: float
    read_byte_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """The path between two ranks: ``resources``, by number, that one message at a time may use, and its times."""

    resources: tuple[int, ...]
    bandwidth_bytes_per_s: float
    latency_s: float
    message_overhead_s: float
    jitter_s: float = 0.0
    threads: Threads | None = None


class Routes(dict[tuple[int, int], Route | None]):
    """Routes by (source, destination). None, which costs nothing: client and device without a ``client_link``.

    Raises :class:`PlanError` for two devices without a link.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self._numbers: dict[Hashable, int] = {}

    def __missing__(self, pair: tuple[int, int]) -> Route | None:
        link = link_between(self.cluster, *pair)
        route = None
        if link is not None:
            route = Route(
                resources=tuple(self._number(resource) for resource in _resources(link, *pair)),
                bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
                latency_s=link.latency_s,
                message_overhead_s=link.message_overhead_s,
                jitter_s=link.jitter_s,
                threads=self._threads(*pair),
            )
        self[pair] = route
        return route

    def threads_s(self, source: int, destination: int, wire_bytes: int) -> float:
        """Seconds by which the threads of both ends delay a message, from posting to receiving, beside the wire."""
        (write_message_s, write_byte_s), (read_message_s, read_byte_s) = map(self._thread_s, (source, destination))
        piece_bytes = min(wire_bytes, PIECE_BYTES)
        return write_message_s + read_message_s + piece_bytes * (write_byte_s + read_byte_s)

    def _number(self, resource: Hashable) -> int:
        return self._numbers.setdefault(resource, len(self._numbers))

    def _threads(self, source: int, destination: int) -> Threads | None:
        """None if neither end has thread times."""
        write, read = self._thread_s(source), self._thread_s(destination)
        if not any((*write, *read)):
            return None
        return Threads(self._number(("writer", source)), *write, self._number(("reader", destination)), *read)

    def _thread_s(self, rank: int) -> tuple[float, float]:
        """Seconds per message and per byte in a thread beside the computing one."""
        costs = None if rank == CLIENT else self.cluster.devices[rank].exchange
        return (costs.message_s, costs.byte_s) if costs is not None and costs.own_core else (0.0, 0.0)


def link_between(cluster: Cluster, source: int, destination: int) -> Link | None:
    """The link between two ranks; None if client messages cost nothing. :class:`PlanError` if there is no link."""
    return cluster.client_link if CLIENT in (source, destination) else cluster.link(source, destination)


class Network:
    """Carries messages: each waits for those that were carried before it."""

    def __init__(self, cluster: Cluster) -> None:
        self.routes = routes_of(cluster)
        self._free_at: dict[int, float] = {}

    def copy(self) -> Network:
        """A network that is as busy as this one, and goes on without it."""
        other = object.__new__(Network)
        other.routes, other._free_at = self.routes, dict(self._free_at)
        return other

    def carry(self, pair: tuple[int, int], posted_s: float, payload_bytes: int) -> tuple[float, float]:
        """When a message has left and when it can be taken; both ``posted_s`` if no link carries it.

        Writing, transfer and reading overlap, piece by piece. The wire is busy from the first written piece until
        everything is written and every byte has had its time; by then the reader has read all but the last piece.
        """
        route = self.routes[pair]
        if route is None:
            return posted_s, posted_s
        free_at, threads = self._free_at, route.threads
        wire_bytes = payload_bytes + FRAME_HEADER_BYTES
        start_s, written_s = posted_s, 0.0
        if threads is not None:
            start_s, written_s = write(threads, posted_s, free_at.get(threads.writer, 0.0), wire_bytes)
            free_at[threads.writer] = written_s
        for resource in route.resources:
            free_s = free_at.get(resource, 0.0)
            if free_s > start_s:
                start_s = free_s
        end_s = start_s + route.message_overhead_s + wire_bytes / route.bandwidth_bytes_per_s
        if written_s > end_s:
            end_s = written_s
        for resource in route.resources:
            free_at[resource] = end_s
        arrival_s = end_s + route.latency_s
        if threads is not None:
            arrival_s = free_at[threads.reader] = read(threads, arrival_s, free_at.get(threads.reader, 0.0), wire_bytes)
        return start_s, arrival_s


def routes_of(cluster: Cluster) -> Routes:
    """The routes of a cluster; the same object for the same cluster."""
    return _routes_of(Same(cluster))


@lru_cache(maxsize=16)
def _routes_of(same: Same[Cluster]) -> Routes:
    return Routes(same.value)


def _resources(link: Link, source: int, destination: int) -> tuple[Hashable, ...]:
    """The resources that a message occupies while it is on the wire (see :class:`Link`)."""
    if link.medium == "shared":
        return ("air",)
    if link.medium == "switch":
        if link.duplex == "half":
            return (("port", source), ("port", destination))
        return (("out", source), ("in", destination))
    return (("cable", source, destination) if link.duplex == "full" else ("cable", frozenset((source, destination))),)
