"""The device's own logits of recent requests, kept in case the client recalls them.

In a degrading session the device that answers may be lost; the client then asks others for the logits they sent it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable

from sepnas.errors import PeerLostError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import Data, Recall
from sepnas.runtime.tensors.codec import Payload

MAX_KEPT_REQUESTS = 32
"""Requests whose logits are kept, and recalls that are remembered for requests still running."""


class OwnLogits:
    """Logits by request number. The computing thread keeps them, the client's channel recalls them.

    ``post`` sends a message to a rank; it is called without the lock, which only guards the two tables.
    """

    def __init__(self, post: Callable[[int, Data], None]) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Payload] = OrderedDict()
        self._recalled: dict[int, int] = {}  # request -> tag

    def keep(self, request: int, logits: Payload) -> None:
        """Store the logits of a request that has ended, and send them if they were recalled meanwhile."""
        with self._lock:
            self._kept[request] = logits
            while len(self._kept) > MAX_KEPT_REQUESTS:
                self._kept.popitem(last=False)
            tag = self._recalled.pop(request, None)
            self._recalled = {number: tag for number, tag in self._recalled.items() if number > request}
        if tag is not None:
            self._post(CLIENT, Data(request, tag, logits))

    def recall(self, event: Recall) -> None:
        """Send the client the logits of a request, now or when it has ended."""
        with self._lock:
            logits = self._kept.get(event.request)
            if logits is None:
                self._recalled[event.request] = event.tag
                while len(self._recalled) > MAX_KEPT_REQUESTS:
                    del self._recalled[min(self._recalled)]
        if logits is not None:
            with contextlib.suppress(PeerLostError):
                self._post(CLIENT, Data(event.request, event.tag, logits))

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
            self._recalled.clear()
