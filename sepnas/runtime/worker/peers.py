"""The channels of one session to the other devices: dialed or accepted, lost and found again.

The device with the higher rank of two dials the other, except when a device rejoins a running session: then it dials.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from sepnas.errors import DeadlineError, ExchangeError, HandshakeError, LocalProtocolError, PeerLostError
from sepnas.runtime.protocol.events import Control, Data, Hello, Setup, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.worker.client_link import ClientLink
from sepnas.runtime.worker.context import WorkerContext
from sepnas.runtime.worker.log import SessionLog
from sepnas.runtime.worker.request_queue import RequestQueue, SessionEnd

_WELCOME_S = 1.0
_CHECK_S = 0.2


class SessionPeers:
    """Channels by rank.

    Lock order: ``_changed``, held while a channel is adopted or found lost, comes before the queue's condition. Nothing
    that holds the queue's condition calls in here.

    Args:
        context: what the worker's sessions share.
        session: the session's name, which peers show when they dial.
        client: where losses are reported.
        queue: its mailbox learns which peers are lost, and its ``end`` ends the session.
        log: the session's log.
        on_event: takes the rank of a peer and what it sends.
    """

    def __init__(
        self,
        context: WorkerContext,
        session: str,
        client: ClientLink,
        queue: RequestQueue,
        log: SessionLog,
        on_event: Callable[[int, Control | Data], None],
    ) -> None:
        self._context, self._shard, self._session = context, context.shard, session
        self._client, self._queue, self._log, self._on_event = client, queue, log, on_event
        self._channels: dict[int, Channel] = {}
        self._lost: set[int] = set()
        self._changed = threading.Condition()
        self.degrade = False
        """Whether the session goes on without a peer that is lost."""
        self.waiting_for: int | None = None
        """The rank that setting up waits for, or waited for when it failed."""

    # -- connecting

    def connect(self, setup: Setup, deadline: float) -> None:
        """Dial the lower ranks and wait for the higher ones, which dial this device; in a rejoin, dial them all.

        Raises a :class:`SepnasError` if one is not connected by ``deadline`` (``time.monotonic`` seconds).
        """
        peers = self._shard.manifest.peers(setup.plans)
        for rank in peers:
            address = setup.peers.get(str(rank))
            if address is None and (setup.rejoin or self.degrade):
                self._queue.mailbox.lose(rank)  # it dials us when it is back
            elif setup.rejoin or rank < self._shard.rank:
                self.waiting_for = rank
                address = self._context.guard.address(rank, address)
                if address is None:
                    raise HandshakeError(f"the client did not say where device {rank} listens")
                self._dial(rank, address, deadline)
        if not setup.rejoin:
            expected = {rank for rank in peers if str(rank) in setup.peers or not self.degrade}
            self._await(expected, deadline)

    def attach(self, channel: Channel, rank: int) -> bool:
        """Take the channel of a peer that dialed, perhaps again after it was lost; False if it is not expected."""
        with self._changed:
            known = rank in self._shard.manifest.peers() and (rank not in self._channels or self.degrade)
            if self._queue.ending or not known:
                return False
            channel.connection.expect(self._shard.expected_from(rank))
            channel.send_now(Welcome(rank=self._shard.rank), time.monotonic() + _WELCOME_S)
            if before := self._channels.pop(rank, None):
                before.abort()
            self._adopt(channel, rank)
            return True

    def _dial(self, rank: int, address: str, deadline: float) -> None:
        own, guard = self._shard, self._context.guard
        hello = Hello(deployment_id=own.manifest.deployment_id, rank=own.rank, session=self._session)
        opening = guard.opening(rank, address, self._client.host, deadline, lambda: self._queue.ending is not None)
        channel = dial(rank, address, hello, self._context.identity, own.expected_from(rank), deadline, opening)
        with self._changed:
            self._adopt(channel, rank)

    def _await(self, expected: set[int], deadline: float) -> None:
        with self._changed:
            while missing := expected - self._channels.keys():
                self.waiting_for = min(missing)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise DeadlineError(f"device {self.waiting_for} did not connect in time")
                if self._queue.ending:
                    raise self._queue.ending.error
                self._changed.wait(min(left_s, _CHECK_S))

    def _adopt(self, channel: Channel, rank: int) -> None:
        """Start a peer's channel; the caller holds ``_changed``."""
        self._context.stats.follow(rank, channel.sent, channel.received)
        if rank in self._lost:
            self._lost.discard(rank)
            self._log.say("peer returned", peer=rank)
        if self._context.emulated:
            channel.link = self._context.emulated.links.link(rank)
        self._queue.mailbox.find(rank)
        on_end = partial(self._on_end, rank, channel)
        channel.start(partial(self._on_event, rank), on_end, self._queue.changed)
        self._channels[rank] = channel  # only now: from here on others send through it
        self._changed.notify_all()

    # -- at work

    def post(self, rank: int, data: Data) -> None:
        """Send a message without waiting; raises :class:`PeerLostError` unless the session goes on without the peer."""
        channel = self._channels.get(rank)
        if channel is None:
            return  # it was not there when this device rejoined
        try:
            channel.send(data)
        except LocalProtocolError as error:
            if not self.degrade:
                raise gone(channel, error) from error

    def channels(self) -> dict[int, Channel]:
        """The channels that are open now, by rank."""
        return self._channels.copy()  # atomic, so that it need not wait while a peer is attached

    def end(self, ending: SessionEnd) -> dict[int, Channel]:
        """End the session and give its channels: no peer is attached any more."""
        with self._changed:  # so that none is attached between the two
            self._queue.end(ending)
            return dict(self._channels)

    # -- losses

    def _on_end(self, rank: int, channel: Channel, error: ExchangeError | None) -> None:
        with self._changed:
            # false for the old channel of a peer that has come back, and while the session ends
            takes_part = self._channels.get(rank) is channel and not self._queue.ending
            if takes_part:
                self._note_lost(rank, error)
        mine = self._shard.rank
        if self.degrade:
            if takes_part:
                message = f"device {mine} lost {error or f'device {rank}'}"
                self._client.tell_failed("peer-lost", message, waiting_for=rank)
        elif error is None:
            # It said Bye: its client has left it, and ours is about to leave us. Wake only those who wait for it.
            self._queue.mailbox.fail(PeerLostError(f"device {rank} has ended the session"))
        else:
            self._queue.end(SessionEnd(PeerLostError(f"device {mine} lost {error}"), rank))

    def _note_lost(self, rank: int, error: ExchangeError | None) -> None:
        self._lost.add(rank)
        if error is not None:
            self._log.say("peer lost", logging.WARNING, peer=rank, reason=str(error))
        elif self.degrade:  # otherwise the session is about to end
            self._log.say("peer left", peer=rank)
        if self.degrade:
            self._queue.mailbox.lose(rank)


def gone(channel: Channel, error: LocalProtocolError) -> PeerLostError:
    """The error of a message that cannot be sent any more."""
    return PeerLostError(f"{channel.peer} is not there any more: {error}")
