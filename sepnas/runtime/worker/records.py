"""What a client may ask about its session: the step times of recent requests, and the bytes counted on each link."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from sepnas.plan.steps import Step
from sepnas.runtime.protocol.times import RequestTimes, step_rows
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.worker.pace import EmulatedDevice

MAX_TRACES = 256
"""Requests whose step times are kept."""
MAX_TRACE_ROWS = 50_000
"""Maximum number of steps in one answer, which keeps it within ``MAX_ANSWER_BYTES``."""
_FLUSH_S = 5.0


class SessionRecords:
    """Times of the last :data:`MAX_TRACES` requests, and the number of all that were begun; ``programs`` by plan."""

    def __init__(self, programs: Mapping[str, tuple[Step, ...]], emulated: EmulatedDevice | None) -> None:
        self._programs, self._emulated = programs, emulated
        self._traces: deque[RequestTimes] = deque(maxlen=MAX_TRACES)
        self.requests = 0

    def add(self, times: RequestTimes) -> None:
        """Keep the step times of a request that was served."""
        self._traces.append(times)

    def trace(self, last: int) -> dict[str, Any]:
        """The step times of the ``last`` requests, or of as many as fit into one answer."""
        longest = max(1, *map(len, self._programs.values()))
        count = min(last, MAX_TRACE_ROWS // longest)
        wanted = list(self._traces)[-count:] if count else []
        return {"requests": [step_rows(self._programs[times.plan], times) for times in wanted]}

    def counters(self, channels: Mapping[int, Channel]) -> dict[str, Any]:
        """Bytes and messages by peer rank, once everything queued for the peers is written."""
        limit = time.monotonic() + _FLUSH_S
        for channel in channels.values():
            channel.flush(max(0.0, limit - time.monotonic()))
        links = {str(rank): channel.traffic() for rank, channel in channels.items()}
        emulated = {"emulated": self._emulated.lateness()} if self._emulated else {}
        return {"requests": self.requests, "links": links} | emulated

    def forget(self) -> None:
        self._traces.clear()
