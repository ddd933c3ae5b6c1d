"""Throughput and mean latency of a stream of requests, several of them in flight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from sepnas.cost.arbitration import take_turns
from sepnas.cost.routes import Network
from sepnas.cost.work import Work
from sepnas.errors import PlanError, SpecError
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.spec.cluster import Cluster


@dataclass(frozen=True, slots=True)
class StreamSimulation:
    """Throughput and latencies seen by a client that keeps ``in_flight`` requests open.

    ``throughput_per_s`` (answers per second) and ``latency_s`` (the mean) are over the later half of the requests:
    the steady state. ``latencies_s`` holds every request's latency, in order.
    """

    requests: int
    in_flight: int
    throughput_per_s: float
    latency_s: float
    latencies_s: tuple[float, ...]


def simulate_stream(
    plan: Plan, cluster: Cluster, requests: int = 64, in_flight: int = 2, batch: int = 1
) -> StreamSimulation:
    """Simulate ``requests`` requests; the next one is sent as soon as fewer than ``in_flight`` are unanswered.

    Each device works on one request at a time, in order, by the rules of :func:`sepnas.cost.simulator.simulate`.
    Messages of one request are ordered as there; between requests, the message posted first goes first. With one in
    flight, every latency is the simulated one. The order between requests depends on times, so in rare cases more
    bandwidth could make a stream slower.
    """
    for name, value in (("requests", requests), ("in_flight", in_flight)):
        if value < 1:
            raise SpecError(f"`{name}` must be at least 1, got {value}")
    work = Work(plan, cluster, batch)
    take_turns(work)
    stream = _Stream(work, requests, in_flight)
    stream.play()
    latencies_s = [end_s - start_s for start_s, end_s in zip(stream.sent_s, stream.answered_s, strict=True)]
    first, answered_s = requests // 2, sorted(stream.answered_s)
    before_s = answered_s[first - 1] if first else 0.0
    return StreamSimulation(
        requests=requests,
        in_flight=in_flight,
        throughput_per_s=_rate(requests - first, answered_s[-1] - before_s),
        latency_s=sum(latencies_s[first:]) / (requests - first),
        latencies_s=tuple(latencies_s),
    )


def _rate(count: int, duration_s: float) -> float:
    """Infinite for a network that takes no time, such as one without multiplications at a rate of FLOPs."""
    return count / duration_s if duration_s > 0 else math.inf


class _Stream:
    """All requests in progress; ``sent_s`` and ``answered_s`` are by request."""

    def __init__(self, work: Work, requests: int, in_flight: int) -> None:
        self._work, self._requests, self._in_flight = work, requests, in_flight
        self._carry = Network(work.cluster).carry
        self._posted_s: list[dict[int, float]] = [{} for _ in range(requests)]
        self._arrival_s: list[dict[int, float]] = [{} for _ in range(requests)]
        self._next = [0] * requests  # for each request, the index of its next message
        self._order = [tag for tag, _, _, _ in work.messages]
        self._ready: list[tuple[float, int]] = []  # a heap: when the next message of a request was posted
        self._devices = [self._carry_out(rank) for rank in range(len(work.devices))]
        answers = sum(pair[1] == CLIENT for _, pair, _, _ in work.messages)
        self._missing = [answers] * requests
        self.sent_s: list[float] = []
        self.answered_s = [0.0] * requests

    def play(self) -> None:
        for _ in range(min(self._in_flight, self._requests)):
            self._send(0.0)
        for device in self._devices:
            next(device, None)
        for _ in range(self._requests * len(self._order)):
            if not self._ready:
                raise PlanError("a device waits for a message before anyone can have sent it; tags must rise")
            self._deliver(heappop(self._ready)[1])

    def _post(self, request: int, tag: int, now: float) -> None:
        """A device has posted a message; a request that the client has not sent waits all the same."""
        self._posted_s[request][tag] = now
        if request < len(self.sent_s) and tag == self._order[self._next[request]]:
            heappush(self._ready, (now, request))

    def _queue(self, request: int) -> None:
        """Queue a request if its next message is posted already."""
        number = self._next[request]
        posted_s = self._posted_s[request].get(self._order[number]) if number < len(self._order) else None
        if posted_s is not None:
            heappush(self._ready, (posted_s, request))

    def _deliver(self, request: int) -> None:
        tag, pair, nbytes, _ = self._work.messages[self._next[request]]
        self._next[request] += 1
        self._queue(request)
        _, arrival_s = self._carry(pair, self._posted_s[request].pop(tag), nbytes)
        self._arrival_s[request][tag] = arrival_s
        if pair[1] == CLIENT:
            self._answer(request, arrival_s)
        else:
            next(self._devices[pair[1]], None)

    def _answer(self, request: int, arrival_s: float) -> None:
        """The client has one more message of the answer; with the last one it sends its next request."""
        self._missing[request] -= 1
        self.answered_s[request] = max(self.answered_s[request], arrival_s)
        if not self._missing[request] and len(self.sent_s) < self._requests:
            self._send(self.answered_s[request])

    def _send(self, now: float) -> None:
        """Send the client's next request to every device."""
        request = len(self.sent_s)
        for tag, pair, _, _ in self._work.messages:
            if pair[0] == CLIENT:
                self._posted_s[request][tag] = now
        self.sent_s.append(now)
        self._queue(request)

    def _carry_out(self, rank: int) -> Iterator[None]:
        """Play one device's requests in order; yields at a wait for a message that has not been carried yet."""
        part, now = self._work.devices[rank], 0.0
        for request, arrivals in enumerate(self._arrival_s):
            for seconds, tag, posts in part.legs:
                now += seconds
                if posts:
                    self._post(request, tag, now)
                    continue
                while tag not in arrivals:
                    yield
                now = max(now, arrivals.pop(tag))
            now += part.rest_s
