"""Questions of a client to its devices, beside the requests: one question at a time."""

from __future__ import annotations

import time
from typing import Any, Literal

from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.trace import ClockOffset, best_clock
from sepnas.runtime.protocol.events import Ask, DeviceReport, Ping, Pong

_NUM_PINGS = 8


def ask_devices(
    connections: DeviceConnections, what: Literal["trace", "counters"], last: int, deadline: float
) -> dict[int, dict[str, Any]]:
    """The answer of every device that is there, by rank; ``last`` is the number of requests of a trace.

    ``deadline`` is in ``time.monotonic`` seconds. Raises :class:`DeadlineError` and :class:`PeerLostError`.
    """
    liveness = connections.liveness
    missing = liveness.absent() if connections.degrades else liveness.lost_ranks()
    asked = set(connections.ranks) - missing
    number = connections.control.expect_reports(asked)
    for rank in asked:
        connections.send(rank, Ask(what=what, number=number, last=last))
    answers: dict[int, dict[str, Any]] = {}
    while waiting := asked - liveness.lost_ranks() - set(answers):
        rank, event = connections.receive(deadline, f"answering for the {what}", waiting)
        if isinstance(event, DeviceReport) and event.number == number:
            answers[rank] = event.data
    return answers


def measure_clock(connections: DeviceConnections, rank: int, deadline: float) -> ClockOffset:
    """The offset of a device's clock, from the ping with the shortest round trip; raises as :func:`ask_devices`."""
    pings = []
    for _ in range(_NUM_PINGS):
        ping = Ping(sent_ns=time.monotonic_ns())
        connections.control.expect_pong(rank, ping.sent_ns)
        connections.send(rank, ping)
        while True:
            source, event = connections.receive(deadline, "answering a ping", {rank})
            connections.check_rank(rank)
            if isinstance(event, Pong) and (source, event.sent_ns) == (rank, ping.sent_ns):
                break
        pings.append((event.sent_ns, event.clock_ns, time.monotonic_ns()))
    return best_clock(pings)
