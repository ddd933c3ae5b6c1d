"""Routing the events of all connections to the threads that wait for them.

An event of a request goes to the inbox of that request, in the thread that read it. Other events go to the control
inbox. The loss of a device goes to everyone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping

from sepnas.errors import ExchangeError, PeerLostError
from sepnas.runtime.client.control_inbox import ControlInbox
from sepnas.runtime.client.inboxes import Arrival, Inbox, Inboxes
from sepnas.runtime.client.liveness import Liveness
from sepnas.runtime.client.parted import PartedPairs
from sepnas.runtime.protocol.events import Control, Data, Failed, Missed, Ping, Pong
from sepnas.runtime.transport.channel import Channel

MAX_ENDINGS = 16
"""Number of errors kept that ended the session, for requests that begin to wait afterwards."""


class EventRouter:
    """Routes events; thread-safe, and called in the threads of connections.

    Args:
        ranks: the devices of the session.
        channels: the open connections by rank; read here, changed by the owner under :attr:`lock`.
        on_lost: called when the session goes on without a device that was lost; must not wait.

    ``lock`` guards the state of this class, of its inboxes and of its liveness; it is reentrant because they share it.
    Lock order: a channel's lock of reading (it delivers events here), then ``lock``, then a channel's lock of sending
    (a ping is answered while ``lock`` is held) or the lock of the request window (an inbox releases its request).
    Neither of the last two is held during a call to the router: a channel sends before it reports that it is lost, the
    window calls nothing, and a stream that is garbage-collected meanwhile abandons its requests in another thread.
    """

    def __init__(
        self, ranks: Collection[int], channels: dict[int, Channel], on_lost: Callable[[], None] = lambda: None
    ) -> None:
        self.lock = threading.RLock()
        self.liveness = Liveness(ranks, self.lock)
        self.control = ControlInbox(self.lock)
        self.parted = PartedPairs()
        self.tolerates_loss = False
        """Set when a session that degrades is open: from then on it goes on without devices that are lost."""
        self.on_over: Callable[[], None] = lambda: None
        """Called when the loss of a device ends the session; must not wait."""
        self._ranks, self._channels, self._on_lost = frozenset(ranks), channels, on_lost
        self._inboxes = Inboxes()
        self.endings: list[Arrival] = []

    def follow(self, request: int, inbox: Inbox, max_bytes: Mapping[int, int]) -> None:
        """Send the events of a request to ``inbox`` from now on, and the losses that came before.

        ``max_bytes``: the payload limit of each message of the request, by tag.
        """
        with self.lock:
            self._inboxes.follow(request, inbox, max_bytes)
            for arrival in (*self.endings, *self.liveness.lost.items()):
                self._inboxes.put_in(request, arrival)

    def forget(self, request: int) -> None:
        """Nobody waits for the request any more."""
        with self.lock:
            self._inboxes.forget(request)

    def close(self, arrival: Arrival) -> None:
        """Put the event into all inboxes, and forget all requests."""
        with self.lock:
            self._inboxes.put_in_all(arrival)
            self._inboxes.clear()

    def route(self, rank: int, event: Control | Data | ExchangeError) -> None:
        """Hand on an event of device ``rank``, or the error that ended its connection.

        Raises :class:`RemoteProtocolError` for an event that the device has no reason to send.
        """
        with self.lock:
            if isinstance(event, Missed) and (event.rank != rank or event.source not in self._ranks):
                return  # the device cannot know that
            if isinstance(event, Data | Missed) or (isinstance(event, Failed) and event.request):
                self._route_to_request(rank, event)
            elif isinstance(event, Ping):
                self._answer_ping(rank, event)
            elif isinstance(event, Pong) and self.liveness.take_pong(rank, event):
                return
            elif isinstance(event, Failed) and event.waiting_for in self._channels and self.tolerates_loss:
                self.parted.note(rank, event.waiting_for)
            elif isinstance(event, Failed | ExchangeError):
                arrival = rank, self._note_loss(rank, event)
                self._inboxes.put_in_all(arrival)
                self.control.put(arrival)
            else:
                self.control.take(rank, event)

    def _route_to_request(self, rank: int, event: Data | Missed | Failed) -> None:
        if isinstance(event, Failed) and event.code in ("compute", "protocol"):
            self.liveness.note_failure(rank, event.message)
        self._inboxes.put(event.request, (rank, event))

    def _answer_ping(self, rank: int, ping: Ping) -> None:
        """A device pings its client when another client asks for the device."""
        with contextlib.suppress(ExchangeError):
            self._channels[rank].send(Pong(sent_ns=ping.sent_ns, clock_ns=time.monotonic_ns()))

    def _note_loss(self, rank: int, event: Failed | ExchangeError) -> Failed | ExchangeError:
        """The loss of a device ends the session, unless the session tolerates it: then the device may come back."""
        if not self.tolerates_loss:
            self.liveness.note_ending(*_told_loss(rank, event))
            if len(self.endings) < MAX_ENDINGS:
                self.endings.append((rank, event))
            self.on_over()
            return event
        error = event if isinstance(event, ExchangeError) else PeerLostError(event.message)
        self.liveness.note_lost(rank, error)
        self._on_lost()
        return error


def _told_loss(rank: int, event: Failed | ExchangeError) -> tuple[int, str]:
    """The device that was lost and the reason; a device may report the loss of another one."""
    if isinstance(event, Failed):
        return rank if event.waiting_for is None else event.waiting_for, event.message
    return rank, str(event)
