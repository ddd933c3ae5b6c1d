"""Numbering requests, and bounding how many are open at once."""

from __future__ import annotations

import threading
import time

from sepnas.errors import DeadlineError
from sepnas.runtime.client.limits import MAX_IN_FLIGHT


class RequestWindow:
    """Numbers requests from 1; a number is given out when the oldest open one is less than 32 before it.

    Devices keep messages for that many requests. Thread-safe: a number may be released in any thread, also by one that
    holds the router's lock; this class calls nothing while it holds its own.
    """

    def __init__(self) -> None:
        self.last_request = 0
        self._changed = threading.Condition()
        self._open: set[int] = set()

    def reserve(self, deadline: float) -> int:
        """The next number, open from now on; the caller serialises calls, so that requests are sent in this order.

        Raises :class:`DeadlineError` when there is no room until ``deadline`` (``time.monotonic`` seconds).
        """
        with self._changed:
            if not self._changed.wait_for(self._has_room, max(0.0, deadline - time.monotonic())):
                raise DeadlineError(
                    f"request {min(self._open)} is not answered and {len(self._open) - 1} wait behind it; "
                    "is a device overloaded?"
                )
            self.last_request += 1
            self._open.add(self.last_request)
            return self.last_request

    def release(self, request: int) -> None:
        """The devices have finished the request; may be called more than once."""
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return not self._open or self.last_request + 1 - min(self._open) < MAX_IN_FLIGHT
