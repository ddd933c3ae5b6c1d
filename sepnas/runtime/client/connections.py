"""A client's open connections to the devices of one session."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sepnas.errors import DeadlineError, ExchangeError, LocalProtocolError, PeerLostError, again
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.dialing import Dialer, SessionTarget
from sepnas.runtime.client.failures import cause_of, error_of, late_error
from sepnas.runtime.client.inboxes import Arrival
from sepnas.runtime.client.parallel import for_each_rank
from sepnas.runtime.client.rejoin import Rejoiner
from sepnas.runtime.client.router import EventRouter
from sepnas.runtime.protocol.events import Control, Data, Failed, Ping
from sepnas.runtime.transport import sockets
from sepnas.runtime.transport.channel import Channel

_REJOIN_S = 5.0
"""Time that a lost device has to join the session again."""


class DeviceConnections:
    """The connections to all devices that take part in a session; :func:`open_connections` opens them.

    Events that come in are routed by :attr:`router`; the states of the devices are in :attr:`liveness`. In a session
    that degrades, devices that are lost are dialed again in the background.
    """

    def __init__(self, target: SessionTarget) -> None:
        self.degrades = target.on_missing == "degrade"
        comes_back = target.reconnect or self.degrades
        self._advice = "start it again" if comes_back else "start it again and open a new session"
        self.ranks = tuple(target.expected)
        """All devices of the session, lost or not."""
        self._links = target.links
        self.dialer = Dialer(target)
        self.channels: dict[int, Channel] = {}
        """By rank; changed under the router's lock once events are routed."""
        self._rejoiner = Rejoiner(self._find_lost, self._bring_back)
        self.router = EventRouter(self.ranks, self.channels, on_lost=self._rejoiner.look)
        self.liveness, self.control = self.router.liveness, self.router.control
        self._broken: ExchangeError | None = None
        self._closing = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked any more: a strict session has lost a device."""
        return bool(self.router.endings) or self._broken is not None

    def call_when_over(self, on_over: Callable[[], None]) -> None:
        """Call ``on_over`` when the session is over; it must not wait."""
        self.router.on_over = on_over

    def begin_serving(self) -> None:
        """All devices are set up: a session that degrades tolerates losses from now on."""
        if self.degrades:
            self.router.tolerates_loss = True
            self._rejoiner.start()

    def start(self, rank: int, channel: Channel) -> None:
        """Route the events of a channel; raises :class:`PeerLostError` when there is no thread for it."""
        if self._links is not None:
            channel.link = self._links.link(rank)
        route = self.router.route
        channel.start(lambda event: route(rank, event), lambda error: self._end(rank, channel, error))

    # -- requests and questions

    def send(self, rank: int, *events: Control | Data) -> None:
        """Queue events for a device, all or none.

        A device that a session that degrades has lost is skipped. Raises :class:`PeerLostError` when the session is
        broken and :class:`LocalProtocolError` when it is closed.
        """
        self.check()
        if rank in self.liveness.lost:
            return
        channel = self.channels[rank]  # if the device comes back meanwhile, its new channel gets none of the events
        try:
            for event in events:
                channel.send(event)
        except LocalProtocolError as error:
            if self.router.tolerates_loss:
                return  # the loss is about to be routed
            self.check()  # closed meanwhile
            raise PeerLostError(f"device {rank} is not in the session any more: {error}") from error

    def receive(self, deadline: float, doing: str, waiting: Collection[int] = ()) -> Arrival:
        """The next event that belongs to no request, or the error of a device that the session goes on without.

        ``waiting`` are the devices to blame in the :class:`DeadlineError`, by default all. Raises
        :class:`PeerLostError` when the session is over.
        """
        try:
            rank, event = self.control.get(deadline - time.monotonic())
        except queue.Empty:
            raise late_error(waiting or set(self.channels), doing) from None
        if isinstance(event, ExchangeError) and not self.router.tolerates_loss:
            raise self.end(event)
        return rank, event

    def check(self) -> None:
        """Raise the error that ended the session, if any."""
        if self._broken is not None:
            raise again(self._broken)
        if self._closing.is_set():
            raise LocalProtocolError("the session is closed; open a new one")

    def check_rank(self, rank: int) -> None:
        """Raise the error of a device, if it is lost."""
        error = self.liveness.lost.get(rank)
        if error is not None:
            raise again(error)

    # -- errors

    def end(self, error: ExchangeError) -> ExchangeError:
        """The session is over because of ``error``; returns the error to be raised."""
        self._broken = self._broken or error
        self.router.on_over()
        return again(error)

    def explain(
        self, reports: Sequence[Failed], lost: ExchangeError | None, ends_session: bool = True
    ) -> ExchangeError:
        """The error that several reports of one failure mean; ``lost``: the error of a connection lost with it."""
        cause = cause_of(reports)
        error = error_of(cause)
        if cause.code == "deadline":
            late = cause.rank if cause.waiting_for in (None, CLIENT) else cause.waiting_for
            self.liveness.note_late(late, cause.message)
        if not ends_session:
            return error
        if cause.code == "peer-lost":
            return self.end(error)  # a device that reports a lost peer leaves too; it is not the cause
        if lost is not None:
            self.end(lost)
        return error

    def late(self, ranks: Collection[int], doing: str) -> DeadlineError:
        """The error that the silence of these devices means; it counts as a late answer of each."""
        error = late_error(ranks, doing)
        for rank in ranks:
            self.liveness.note_late(rank, str(error))
        return error

    # -- liveness

    def ping_all(self) -> None:
        """Ping each device that has answered the last ping; one that has not for long is silent."""
        now_ns = time.monotonic_ns()
        with self.router.lock:
            due = self.liveness.begin_pings(now_ns)
            if not sockets.KERNEL_GIVES_UP:
                for rank in self.liveness.silent_for(sockets.MAX_UNACKNOWLEDGED_S, now_ns):
                    self.channels[rank].abort()
        for rank in due:
            with contextlib.suppress(ExchangeError):
                self.send(rank, Ping(sent_ns=now_ns))

    def suspect(self, rank: int) -> None:
        """A device did not deliver in time: until it answers a ping, requests are sent without it."""
        ping = Ping(sent_ns=time.monotonic_ns())
        if self.liveness.suspect(rank, ping):
            self.send(rank, ping)

    def traffic(self) -> dict[str, Any]:
        """The counts of the client's ends of the connections, as plain data by rank."""
        return {str(rank): channel.traffic() for rank, channel in self.channels.items()}

    # -- devices that come back

    def _find_lost(self) -> frozenset[int]:
        """The devices to dial again.

        Of two devices that have lost each other while both are here one is disconnected, so that it joins both again.
        """
        with self.router.lock:
            for pair in self.router.parted.take_due():
                if not self.liveness.lost.keys() & set(pair):
                    self.channels[max(pair)].abort()
        return self.liveness.lost_ranks()

    def _bring_back(self, rank: int) -> bool:
        """Whether a lost device has joined the session again, connected to all that are there."""
        channel = self.dialer.dial_again(rank, lambda: self.liveness.present_ranks, time.monotonic() + _REJOIN_S)
        return channel is not None and self._take_back(rank, channel)

    def _take_back(self, rank: int, channel: Channel) -> bool:
        with self.router.lock:
            if self._closing.is_set():
                channel.abort()
                return False
            self.channels[rank] = channel
            try:
                self.start(rank, channel)
            except ExchangeError:  # no thread could be started for it
                return False
            self.liveness.note_back(rank)  # last: from now on events are sent to it
        return True

    def _end(self, rank: int, channel: Channel, error: ExchangeError | None) -> None:
        if self.channels.get(rank) is channel:  # otherwise the device has come back meanwhile
            reason = error or "it ended the session"
            self.router.route(rank, PeerLostError(f"{channel.peer} was lost: {reason}; {self._advice}"))

    # -- the end

    def close(self) -> None:
        """Say Bye to all devices and close the connections; takes at most about a second."""
        self._closing.set()
        self.router.close((CLIENT, LocalProtocolError("the session was closed before the answer came")))
        self.leave()

    def leave(self) -> None:
        """Close the connections of a session that is over: all at the same time."""
        self._rejoiner.close()
        channels = dict(self.channels)
        for_each_rank(list(channels), lambda rank: channels[rank].close())

    def close_descriptors(self) -> None:
        """In a forked process: close only the descriptors; the connections go on in the parent process."""
        for channel in list(self.channels.values()):
            channel.close_descriptors()
