"""Sorts what arrives in a session: requests, messages, questions. Runs in the channels' threads and never waits."""

from __future__ import annotations

import time

from sepnas.errors import RemoteProtocolError
from sepnas.runtime.protocol.events import Ask, Cancel, Control, Data, PartialData, Ping, Pong, Recall, Request
from sepnas.runtime.worker.client_link import ClientLink
from sepnas.runtime.worker.own_logits import OwnLogits
from sepnas.runtime.worker.request_queue import RequestQueue


class Intake:
    """Receives the events of the client and of the peers.

    An event that the protocol does not allow raises :class:`RemoteProtocolError`, which ends the connection it came on.
    """

    def __init__(self, num_devices: int, queue: RequestQueue, client: ClientLink, logits: OwnLogits) -> None:
        self._num_devices = num_devices
        self._queue, self._client, self._logits = queue, client, logits

    def from_client(self, event: Control | Data) -> None:
        self._client.heard_s = time.monotonic()
        if isinstance(event, Data):
            self._keep_message(event, announced=True)
        elif isinstance(event, Recall):
            self._logits.recall(event)
        elif isinstance(event, Ping):
            self._client.tell(Pong(sent_ns=event.sent_ns, clock_ns=time.monotonic_ns()))
        elif isinstance(event, Cancel):
            self._queue.mailbox.cancel(event.request)
            self._queue.drop_request(event.request)
        elif isinstance(event, Request):
            self._take_request(event)
        elif isinstance(event, Ask):
            self._queue.drop_questions()
            self._queue.put(event)

    def from_peer(self, event: Control | Data) -> None:
        if isinstance(event, Data):
            self._keep_message(event, announced=False)

    def _take_request(self, event: Request) -> None:
        if len(event.without) > self._num_devices:
            raise RemoteProtocolError(
                f"request {event.request} is without {len(event.without)} devices: there are less"
            )
        if self._queue.mailbox.announce(event.request):
            self._queue.put(event)
        else:
            self._tell_dropped(event.request)

    def _keep_message(self, event: Data, announced: bool) -> None:
        partial = isinstance(event, PartialData)
        for request in self._queue.mailbox.put(
            event.request, event.tag, event.payload, event.arrived_ns, partial, announced
        ):  # fmt: skip
            self._tell_dropped(request)

    def _tell_dropped(self, request: int) -> None:
        """Its messages found no room, or it came too late: the client need not wait for it."""
        self._queue.drop_request(request)
        limit_mb = self._queue.mailbox.max_bytes / 1e6
        message = (
            f"device {self._client.rank} dropped request {request}: more than {limit_mb:.0f} MB of messages waited; "
            "send smaller batches, or fewer at once"
        )
        self._client.tell_failed("protocol", message, request=request)
