"""Plays one request through the devices and the links between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from sepnas.errors import PlanError
from sepnas.plan.steps import CLIENT

if TYPE_CHECKING:
    from sepnas.cost.work import Leg, Work


class Carrier(Protocol):
    """Carries messages: :class:`sepnas.cost.routes.Network`, or one without queueing."""

    def carry(self, pair: tuple[int, int], posted_s: float, payload_bytes: int) -> tuple[float, float]:
        """When a message leaves and when it can be taken."""
        ...


class Passage:
    """Plays one request: messages are carried in order, each once its sender has reached its send.

    ``posted_s``, ``sent_s`` and ``arrival_s`` are by tag, ``done_s`` by rank; ``latency_s`` is when the client has all
    outputs.
    """

    def __init__(self, work: Work, carrier: Carrier) -> None:
        self._work, self._carrier = work, carrier
        self.done_s = [0.0] * len(work.devices)
        self.sent_s: dict[int, float] = {}
        self.arrival_s: dict[int, float] = {}
        self.latency_s = 0.0

    def play(self, legs: Sequence[list[Leg]] | None = None) -> None:
        """Play the request, with the work's own ``legs`` by default. :class:`PlanError` if a message never arrives."""
        devices = [
            self._carry_out(rank, device.legs if legs is None else legs[rank], device.rest_s)
            for rank, device in enumerate(self._work.devices)
        ]
        carry, done_s = self._carrier.carry, self.done_s
        sent_s, arrivals = self.sent_s, self.arrival_s
        for tag, pair, nbytes, _ in self._work.messages:
            source, posted_s = pair[0], 0.0
            if source != CLIENT:
                for sent in devices[source]:
                    if sent == tag:
                        break
                posted_s = done_s[source]
            sent_s[tag], arrivals[tag] = carry(pair, posted_s, nbytes)
            if pair[1] == CLIENT:
                self.latency_s = max(self.latency_s, arrivals[tag])
        for device in devices:
            for _ in device:
                pass

    def _carry_out(self, rank: int, legs: list[Leg], rest_s: float) -> Iterator[int]:
        """Play one device's legs; yields the tag of each message it posts, at the time in ``done_s``."""
        arrivals, done_s, now = self.arrival_s, self.done_s, 0.0
        for seconds, tag, posts in legs:
            now += seconds
            if posts:
                done_s[rank] = now
                yield tag
            elif tag not in arrivals:
                raise PlanError(
                    f"rank {rank} waits for message {tag} before anyone can have sent it; "
                    "tags must rise along every dependency"
                )
            elif arrivals[tag] > now:
                now = arrivals[tag]
        done_s[rank] = now + rest_s
