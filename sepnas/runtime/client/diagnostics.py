"""What a session can tell about itself: byte counts, the punctuality of an emulation, traces of requests."""

from __future__ import annotations

import time

from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.keeper import Keeper
from sepnas.runtime.client.questions import ask_devices, measure_clock
from sepnas.runtime.client.requests import Requests
from sepnas.runtime.client.trace import RequestRecord, request_record
from sepnas.runtime.transport.counters import Counters, join_links
from sepnas.runtime.transport.delivery import LinkTimings


class Diagnostics:
    """Asks the devices of a session; each call holds the lock of the requests.

    Args:
        links: the client's emulated links.
        origin_ns: the moment at which the times of a trace begin (``time.monotonic_ns``).

    All calls raise :class:`DeadlineError` after ``limit_s``, and the error that broke the session.
    """

    def __init__(self, keeper: Keeper, requests: Requests, links: LinkTimings | None, origin_ns: int) -> None:
        self._keeper, self._requests, self._links, self._origin_ns = keeper, requests, links, origin_ns

    def counters(self, limit_s: float) -> Counters:
        """The counts of all ends of the connections."""
        connections = self._keeper.connections
        with self._requests.lock:
            self._requests.adopt(connections)
            answers = ask_devices(connections, "counters", 0, time.monotonic() + limit_s)
            reports = {rank: data["links"] for rank, data in answers.items()} | {CLIENT: connections.traffic()}
            return Counters(self._requests.num_sent, join_links(reports))

    def lateness(self, limit_s: float) -> dict[int, dict[str, dict[str, float]]]:
        """Of each rank that emulates: how many of its ``steps`` and ``messages`` were ``timed`` and came ``late``."""
        connections = self._keeper.connections
        with self._requests.lock:
            answers = ask_devices(connections, "counters", 0, time.monotonic() + limit_s)
        found = {rank: data["emulated"] for rank, data in answers.items() if "emulated" in data}
        return found | ({CLIENT: {"messages": self._links.lateness()}} if self._links else {})

    def trace(self, last: int, limit_s: float) -> tuple[RequestRecord, ...]:
        """The steps of the last requests on the client's clock, in seconds since ``origin_ns``."""
        connections = self._keeper.connections
        with self._requests.lock:
            self._requests.adopt(connections)
            deadline = time.monotonic() + limit_s
            timings = self._requests.log.latest(last)
            # devices also keep the requests that failed here, so more than `last` of theirs may be needed
            depth = self._requests.last_request - timings[0][0] + 1 if timings else 0
            answers = ask_devices(connections, "trace", depth, deadline)
            clocks = {rank: measure_clock(connections, rank, deadline) for rank in answers}
        rows = {(rank, r["request"]): r["steps"] for rank, data in answers.items() for r in data["requests"]}
        return tuple(request_record(number, timing, rows, clocks, self._origin_ns) for number, timing in timings)
