"""Bytes and messages counted on the sockets, for comparison with what the plan predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Traffic:
    """One direction of one connection.

    Attributes:
        messages: number of tensors.
        payload_bytes: the tensors' bytes.
        frame_bytes: the same with frame headers; the plan calls them ``wire_bytes``.
        control_bytes: all other frames.
        raw_bytes: bytes on the socket, TLS included.
    """

    messages: int = 0
    payload_bytes: int = 0
    frame_bytes: int = 0
    control_bytes: int = 0
    raw_bytes: int = 0

    def add_message(self, payload_bytes: int, frame_bytes: int) -> None:
        self.messages += 1
        self.payload_bytes += payload_bytes
        self.frame_bytes += frame_bytes


@dataclass(frozen=True, slots=True)
class LinkCount:
    """One direction between two ranks (-1 is the client), as its ``source`` and its ``destination`` counted it."""

    source: int
    destination: int
    sent: Traffic = field(default_factory=Traffic)
    received: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Counters:
    """All links of a session since it was opened."""

    requests: int
    links: tuple[LinkCount, ...]

    @property
    def device_links(self) -> tuple[LinkCount, ...]:
        """The links between devices, without those to and from the client."""
        return tuple(link for link in self.links if -1 not in (link.source, link.destination))

    @property
    def payload_bytes(self) -> int:
        """Bytes of tensors that devices sent to each other."""
        return sum(link.sent.payload_bytes for link in self.device_links)

    @property
    def wire_bytes(self) -> int:
        """The same with the frame headers."""
        return sum(link.sent.frame_bytes for link in self.device_links)

    @property
    def input_bytes(self) -> int:
        """Bytes of tensors that the client sent to the devices."""
        return sum(link.sent.payload_bytes for link in self.links if link.source == -1)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors: between devices, the input and the output."""
        return sum(link.sent.payload_bytes for link in self.links)

    @property
    def raw_bytes(self) -> int:
        """Bytes on the sockets between devices, handshakes and TLS records included."""
        return sum(link.sent.raw_bytes for link in self.device_links)

    def to_data(self) -> dict[str, Any]:
        return asdict(self) | {
            "payload_bytes": self.payload_bytes,
            "wire_bytes": self.wire_bytes,
            "input_bytes": self.input_bytes,
            "total_bytes": self.total_bytes,
            "raw_bytes": self.raw_bytes,
        }


def join_links(reports: dict[int, dict[str, Any]]) -> tuple[LinkCount, ...]:
    """Combine the counts of all ranks: ``{rank: {peer: {"sent": Traffic, "received": Traffic}}}`` as plain data."""
    empty = asdict(Traffic())

    def counted(rank: int, peer: int, direction: str) -> Traffic:
        return Traffic(**reports.get(rank, {}).get(str(peer), {}).get(direction, empty))

    return tuple(
        LinkCount(source, destination, counted(source, destination, "sent"), counted(destination, source, "received"))
        for source, destination in sorted(set(_pairs(reports)))
    )


def _pairs(reports: dict[int, dict[str, Any]]) -> Iterable[tuple[int, int]]:
    for rank, peers in reports.items():
        for peer in map(int, peers):
            yield rank, peer
            yield peer, rank
