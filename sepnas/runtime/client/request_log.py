"""When the latest requests of a session were sent and answered."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping

from sepnas.runtime.client.limits import MAX_TRACES
from sepnas.runtime.client.trace import RequestTiming


class RequestLog:
    """The timings of the latest :data:`MAX_TRACES` answered requests, by number; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timings: OrderedDict[int, RequestTiming] = OrderedDict()

    def note_answered(self, request: int, batch: int, sent_ns: int, plan: str, arrived_ns: Mapping[int, int]) -> None:
        """The request has its answer now; ``arrived_ns``: when its messages came, by tag, but for the last one."""
        with self._lock:
            self._timings[request] = RequestTiming(batch, sent_ns, time.monotonic_ns(), plan, arrived_ns)
            while len(self._timings) > MAX_TRACES:
                self._timings.popitem(last=False)

    def latest(self, count: int) -> list[tuple[int, RequestTiming]]:
        """The last ``count`` requests with their timings, by number."""
        with self._lock:
            return sorted(self._timings.items())[-count:]

    def clear(self) -> None:
        with self._lock:
            self._timings.clear()
