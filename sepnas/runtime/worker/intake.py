"""Sorts what arrives in a session: requests, messages, questions. Runs in the channels' threads and never waits."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from sepnas.errors import RemoteProtocolError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.runtime.protocol.events import Ask, Cancel, Control, Data, PartialData, Ping, Pong, Recall, Request
from sepnas.runtime.worker.client_link import ClientLink
from sepnas.runtime.worker.mailbox import Fits
from sepnas.runtime.worker.own_outputs import OwnOutputs
from sepnas.runtime.worker.request_queue import RequestQueue
from sepnas.spec.document import short


class Intake:
    """Receives the events of the client and of the peers.

    An event that the protocol does not allow raises :class:`RemoteProtocolError`, which ends the connection it came on.
    """

    def __init__(self, shard: Shard, queue: RequestQueue, client: ClientLink, own: OwnOutputs) -> None:
        self._num_devices = shard.manifest.num_devices
        self._fits = {
            name: {normalised: _fits(plan.incoming(shard.rank, normalised)) for normalised in (False, True)}
            for name, plan in shard.plans.items()
        }
        self._queue, self._client, self._own = queue, client, own

    def allow(self, plans: Collection[str]) -> None:
        """Take requests of these plans only, from now on."""
        self._fits = {name: fits for name, fits in self._fits.items() if name in plans}

    def from_client(self, event: Control | Data) -> None:
        self._client.heard_s = time.monotonic()
        if isinstance(event, Data):
            self._keep_message(CLIENT, event, announced=True)
        elif isinstance(event, Recall):
            self._own.recall(event)
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

    def from_peer(self, rank: int, event: Control | Data) -> None:
        if isinstance(event, Data):
            self._keep_message(rank, event, announced=False)

    def _take_request(self, event: Request) -> None:
        if len(event.without) > self._num_devices:
            raise RemoteProtocolError(
                f"request {event.request} is without {len(event.without)} devices: there are less"
            )
        fits = self._fits.get(event.plan, {}).get(event.normalised)
        if not self._queue.mailbox.announce(event.request, fits):
            self._tell_dropped(event.request)
        elif event.plan in self._fits:
            self._queue.put(event)
        else:
            self._refuse_plan(event)

    def _keep_message(self, source: int, event: Data, announced: bool) -> None:
        partial = isinstance(event, PartialData)
        for request in self._queue.mailbox.put(
            event.request, event.tag, event.payload, event.arrived_ns, partial, announced, source
        ):  # fmt: skip
            self._tell_dropped(request)

    def _refuse_plan(self, event: Request) -> None:
        """Its messages are dropped; other requests go on."""
        self._queue.mailbox.cancel(event.request)
        message = (
            f"device {self._client.rank} has no plan {short(event.plan)} in this session: allowed are "
            f"{', '.join(self._fits)}"
        )
        self._client.tell_failed("plan", message, request=event.request)

    def _tell_dropped(self, request: int) -> None:
        """Its messages found no room, or it came too late: the client need not wait for it."""
        self._queue.drop_request(request)
        limit_mb = self._queue.mailbox.max_bytes / 1e6
        message = (
            f"device {self._client.rank} dropped request {request}: more than {limit_mb:.0f} MB of messages waited; "
            "send smaller batches, or fewer at once (or a device sent a message that is not of its plan)"
        )
        self._client.tell_failed("protocol", message, request=request)


def _fits(incoming: Mapping[tuple[int, int], int]) -> Fits:
    """Whether a message is one of a plan, whose samples have these payload bytes by source and tag."""

    def fits(source: int, tag: int, length: int) -> bool:
        sample_bytes = incoming.get((source, tag))
        return sample_bytes is not None and length % sample_bytes == 0 and length <= sample_bytes * MAX_BATCH

    return fits
