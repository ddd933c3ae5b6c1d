"""The outputs that the device computed alone in recent requests, kept in case the client recalls them.

In a degrading session a device that answers may be lost; the client then asks others for what they sent it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from sepnas.errors import PeerLostError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import Data, Recall
from sepnas.runtime.tensors.codec import Payload

MAX_KEPT_REQUESTS = 32
"""Requests whose outputs are kept."""
MAX_RECALLS = 64 * MAX_KEPT_REQUESTS
"""Recalls that are remembered for requests still running."""


class OwnOutputs:
    """Payloads by request number and tag. The computing thread keeps them, the client's channel recalls them.

    ``post`` sends a message to a rank; it is called without the lock, which only guards the two tables.
    """

    def __init__(self, post: Callable[[int, Data], None]) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Mapping[int, Payload]] = OrderedDict()
        self._recalled: dict[tuple[int, int], None] = {}  # (request, tag), in the order of recalling

    def keep(self, request: int, outputs: Mapping[int, Payload]) -> None:
        """Store the outputs of a request that has ended, and send those that were recalled meanwhile."""
        with self._lock:
            self._kept[request] = outputs
            while len(self._kept) > MAX_KEPT_REQUESTS:
                self._kept.popitem(last=False)
            due = [tag for number, tag in self._recalled if number == request and tag in outputs]
            self._recalled = {key: None for key in self._recalled if key[0] > request}
        for tag in due:
            self._post(CLIENT, Data(request, tag, outputs[tag]))

    def recall(self, event: Recall) -> None:
        """Send the client an output of a request, now or when it has ended; one that is not kept is never sent."""
        with self._lock:
            outputs = self._kept.get(event.request)
            if outputs is None:
                self._recalled[event.request, event.tag] = None
                while len(self._recalled) > MAX_RECALLS:
                    del self._recalled[min(self._recalled)]
        if outputs is not None and event.tag in outputs:
            with contextlib.suppress(PeerLostError):
                self._post(CLIENT, Data(event.request, event.tag, outputs[event.tag]))

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
            self._recalled.clear()
