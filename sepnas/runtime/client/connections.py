"""A client's connections to all devices that take part: opening them, and who hears what they say.

What belongs to a request goes to the inbox of who waits for it, in the thread that read it; the rest goes into one
queue. What ends the session, everybody hears.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from sepnas.deployment.manifest import OnMissing
from sepnas.errors import (
    DeadlineError,
    ExchangeError,
    HandshakeError,
    LocalProtocolError,
    PeerLostError,
    PeerUnreachableError,
    RemoteError,
    RemoteProtocolError,
    again,
)
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.inboxes import Arrival, Inbox, Inboxes
from sepnas.runtime.client.rejoin import Rejoiner
from sepnas.runtime.client.trace import ClockOffset, best_clock
from sepnas.runtime.protocol.events import (
    Ask,
    Control,
    Data,
    DeviceReport,
    Event,
    Failed,
    Hello,
    Missed,
    Ping,
    Pong,
    Ready,
    Setup,
)
from sepnas.runtime.transport import sockets
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.delivery import Ways
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.unexpected import start_thread, survives
from sepnas.spec.hosts import Hosts

GATHER_S = 0.03
"""After a first failure others may follow, and one of them may name the cause."""
_REJOIN_S = 5.0
_PARTED_S = 0.3
"""Two devices that lost each other for so long while the client has both need help."""
_PINGS = 8
MAX_PONG_S = 3.0
"""A device that has not answered a ping for this long is silent."""
MAX_LATE = 3
"""A device that is to blame for this many late answers in a row is failing."""
_DIAL_SHARE = 0.8
"""Of the time for opening, what a session that degrades spends on dialing devices."""

MAX_ARRIVALS = 1024
"""Events of no request that wait; one more drops the oldest, which nobody waited for."""
MAX_ENDINGS = 16
_ERRORS: dict[str, type[ExchangeError]] = {
    "deadline": DeadlineError,
    "peer-lost": PeerLostError,
    "peer-unreachable": PeerUnreachableError,
    "handshake": HandshakeError,
}


class Fleet:
    """Connections to the devices of one session.

    Args:
        deployment_id: what all of them must run.
        expected: for each rank that takes part, the messages it sends to the client: bytes a sample, by tag.
        hosts: where they listen.
        identity: the client's certificate; None for plain TCP.
        deadline: when opening must be done (``time.monotonic`` seconds).
        ways: the client's links of a cluster that is emulated.
        on_missing: ``degrade``: the session goes on without devices that are lost, or cannot be reached at the start.
        reconnect: whether connections are opened again at their end, which errors then tell.
    """

    def __init__(
        self,
        deployment_id: str,
        expected: Mapping[int, Mapping[int, int]],
        hosts: Hosts,
        identity: Identity | None,
        deadline: float,
        ways: Ways | None = None,
        on_missing: OnMissing = "strict",
        reconnect: bool = False,
    ) -> None:
        comes_back = reconnect or on_missing == "degrade"
        self._advice = "start it again" if comes_back else "start it again and open a new session"
        self._ways, self._on_missing, self._serving = ways, on_missing, False
        self._expected, self._hosts, self._identity = dict(expected), hosts, identity
        self._channels: dict[int, Channel] = {}
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._inboxes = Inboxes()
        self._endings: list[Arrival] = []
        self._gone: dict[int, ExchangeError] = {}
        self._silent: dict[int, int] = {}
        self._parted: dict[tuple[int, int], float] = {}
        self._pinged: dict[int, int] = {}
        self._late: dict[int, int] = {}
        self._failing: dict[int, str] = {}
        self.on_over: Callable[[], None] = lambda: None
        """Called when the connections are over; must not wait."""
        # one that its holder may take again: a stream that nobody holds any more ends wherever rubbish is collected
        self._routing = threading.RLock()
        self._broken: ExchangeError | None = None
        self._num_asked = 0
        self._asked: set[int] = set()
        self._clock_ping: tuple[int, int] | None = None
        self._closing = threading.Event()
        self._hello = Hello(deployment_id=deployment_id, rank=CLIENT, session=secrets.token_hex(8))
        self._rejoiner = Rejoiner(self._lost_now, self._bring_back)
        try:
            self._dial_all(deadline)
            self._set_up(deadline)
            if on_missing == "degrade":
                self._rejoiner.start()
        except BaseException:
            self.close()
            raise

    @property
    def _goes_on(self) -> bool:
        """Whether the session can do without a device."""
        return self._serving and self._on_missing == "degrade"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The devices that are there."""
        return tuple(rank for rank in self._expected if rank not in self._gone)

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked any more: a strict session has lost a device."""
        return bool(self._endings) or self._broken is not None

    def gone(self) -> frozenset[int]:
        """Devices that are lost."""
        with self._routing:
            return frozenset(self._gone)

    def absent(self) -> frozenset[int]:
        """Devices that a request had better do without: they are lost, or were silent and still are."""
        with self._routing:
            return frozenset(self._gone) | frozenset(self._silent)

    def health(self) -> dict[int, str]:
        """Of each device: ready, silent, how its requests fail, or how it was lost."""
        with self._routing:
            told = dict.fromkeys(sorted(self._expected), "ready") | self._failing
            return told | dict.fromkeys(self._silent, "silent") | self.lost_devices()

    @property
    def is_failing(self) -> bool:
        """Whether requests fail on a device, as far as the last ones tell."""
        return bool(self._failing)

    def useless(self) -> dict[int, str]:
        """Devices that are lost, silent or failing, and how."""
        return {rank: state for rank, state in self.health().items() if state != "ready"}

    def pulse(self) -> None:
        """Ask each device whether it is alive; one that has left that unanswered for long is silent."""
        now_ns = time.monotonic_ns()
        with self._routing:
            for rank, sent_ns in list(self._pinged.items()):
                if now_ns - sent_ns > 1e9 * MAX_PONG_S:
                    self._silent.setdefault(rank, self._pinged.pop(rank))
            if not sockets.KERNEL_GIVES_UP:
                for rank, sent_ns in self._silent.items():
                    if now_ns - sent_ns > 1e9 * sockets.MAX_UNACKNOWLEDGED_S:
                        self._channels[rank].abort()
            due = set(self._channels) - self._gone.keys() - self._silent.keys() - self._pinged.keys()
            self._pinged.update(dict.fromkeys(due, now_ns))
        for rank in due:
            with contextlib.suppress(ExchangeError):
                self.send(rank, Ping(sent_ns=now_ns))

    def _take_pong(self, rank: int, pong: Pong) -> bool:
        """Whether it answers a ping of ours about its life."""
        for pings in (self._silent, self._pinged):
            if pings.get(rank) == pong.sent_ns:
                del pings[rank]
                return True
        return False

    def note_served(self, ranks: Collection[int]) -> None:
        """These devices did their part of a request."""
        if self._failing or self._late:
            with self._routing:
                for rank in ranks:
                    self._failing.pop(rank, None)
                    self._late.pop(rank, None)

    def _note_late(self, rank: int, how: str) -> None:
        """A device is to blame for a late answer."""
        with self._routing:
            self._late[rank] = 1 + self._late.get(rank, 0)
            if self._late[rank] >= MAX_LATE:
                self._failing.setdefault(rank, f"late: {how}")

    def lost_devices(self) -> dict[int, str]:
        """How each device was lost; of a session that ended with the first of them only that one."""
        with self._routing:
            ended = dict(_told_loss(*arrival) for arrival in self._endings[:1])
            return ended | {rank: str(error) for rank, error in self._gone.items()}

    def suspect(self, rank: int) -> None:
        """A device was silent: until it answers a ping, requests do without it."""
        ping = Ping(sent_ns=time.monotonic_ns())
        with self._routing:
            if rank in self._silent or rank in self._gone:
                return
            self._silent[rank] = ping.sent_ns
        self.send(rank, ping)

    def _dial(self, rank: int, deadline: float) -> Channel:
        return dial(rank, self._hosts.address(rank), self._hello, self._identity, self._expected[rank], deadline)

    def _dial_all(self, deadline: float) -> None:
        """Raises how a device cannot be reached, unless the session can do without it."""
        if self._on_missing == "strict":
            for rank in sorted(self._expected):
                self._channels[rank] = self._dial(rank, deadline)
            return
        limit = time.monotonic() + _DIAL_SHARE * (deadline - time.monotonic())
        self._for_all(list(self._expected), lambda rank: self._try_dial(rank, limit))
        self._check_reached()

    def _for_all(self, ranks: list[int], do: Callable[[int], None]) -> None:
        """At the same time, as far as threads are to be had."""
        done = threading.Semaphore(0)

        def run(rank: int) -> None:
            with survives("a session"):
                do(rank)
            done.release()

        for rank in ranks:
            if not start_thread(run, rank):
                run(rank)
        for _ in ranks:
            done.acquire()

    def _try_dial(self, rank: int, deadline: float) -> None:
        try:
            channel = self._dial(rank, deadline)
        except ExchangeError as error:
            self._gone[rank] = error
        except Exception as error:  # a thread has nobody else to tell
            self._gone[rank] = PeerUnreachableError(f"device {rank}: cannot be dialed: {error}")
        else:
            self._channels[rank] = channel

    def _check_reached(self) -> None:
        """Without a device that is down the session begins; not beside another client, nor with a foreign device."""
        for _, error in sorted(self._gone.items()):
            if isinstance(error, HandshakeError):
                raise again(error)
        heads = {rank for rank, messages in self._expected.items() if messages}
        if heads <= self._gone.keys():
            raise again(self._gone[min(heads)])

    def _setup(self, deadline: float, rejoin: bool = False) -> Setup:
        """Where all that are there listen."""
        left_ms = max(1, int((deadline - time.monotonic()) * 1e3))
        peers = {str(rank): self._hosts.address(rank) for rank in self.ranks}
        return Setup(peers=peers, deadline_ms=left_ms, on_missing=self._on_missing, rejoin=rejoin)

    def _start(self, rank: int, channel: Channel) -> None:
        if self._ways is not None:
            channel.way = self._ways.way(rank)
        channel.start(lambda event: self._route(rank, event), lambda error: self._end(rank, channel, error))

    def _set_up(self, deadline: float) -> None:
        """Tell each device where the others listen, and wait until all of them are connected."""
        setup = self._setup(deadline)
        for rank, channel in self._channels.items():
            channel.send_now(setup, deadline)
            self._start(rank, channel)
        waiting = set(self._channels)
        while waiting:
            rank, event = self.receive(deadline + GATHER_S, "connecting to their peers", waiting)
            if isinstance(event, Failed):
                raise self._explain_set_up(event)
            if isinstance(event, Ready):
                waiting.discard(rank)
        self._serving = True

    def _end(self, rank: int, channel: Channel, error: ExchangeError | None) -> None:
        if self._channels.get(rank) is channel:  # it has not come back meanwhile
            how = error or "it ended the session"
            self._route(rank, PeerLostError(f"{channel.peer} was lost: {how}; {self._advice}"))

    def _bring_back(self, rank: int) -> bool:
        """Whether a lost device is in the session again, connected to all that are there."""
        deadline = time.monotonic() + _REJOIN_S
        channel = None
        try:
            channel = self._dial(rank, deadline)
            channel.send_now(self._setup(deadline, rejoin=True), deadline)
            ready = isinstance(_next_but_pings(channel, deadline), Ready)
        except ExchangeError:
            ready = False
        except Exception:
            if channel is not None:
                channel.abort()
            raise
        return self._take_back(rank, channel, ready)

    def _take_back(self, rank: int, channel: Channel | None, ready: bool) -> bool:
        with self._routing:
            if channel is None or not ready or self._closing.is_set():
                if channel is not None:
                    channel.abort()
                return False
            self._channels[rank] = channel
            try:
                self._start(rank, channel)
            except ExchangeError:  # there was no thread for it
                return False
            del self._gone[rank]  # now that it is ready to send
        return True

    def _cut(self) -> None:
        """Of two devices that live and have lost each other one is taken out, so that it comes back to both."""
        with self._routing:
            now = time.monotonic()
            for pair, since in list(self._parted.items()):
                if now - since >= _PARTED_S:
                    del self._parted[pair]
                    if not self._gone.keys() & set(pair):
                        self._channels[max(pair)].abort()

    def _lost_now(self) -> frozenset[int]:
        self._cut()
        return self.gone()

    def _route(self, rank: int, event: Control | Data | ExchangeError) -> None:
        with self._routing:
            if isinstance(event, Missed) and (event.rank != rank or event.source not in self._expected):
                return  # it speaks of what it cannot know
            if isinstance(event, Data | Missed) or (isinstance(event, Failed) and event.request):
                if isinstance(event, Failed) and event.code in ("compute", "protocol"):
                    self._failing[rank] = f"failing: {event.message}"
                self._inboxes.put(event.request, (rank, event))
                return
            if isinstance(event, Ping):
                self._answer_ping(rank, event)
                return
            if isinstance(event, Pong) and self._take_pong(rank, event):
                return
            if isinstance(event, Failed) and event.waiting_for in self._channels and self._goes_on:
                self._parted.setdefault((min(rank, event.waiting_for), max(rank, event.waiting_for)), time.monotonic())
                return
            if isinstance(event, Failed | ExchangeError):
                event = self._ended(rank, event)
                self._inboxes.put_in_all((rank, event))
            elif not self._is_awaited(rank, event):
                return  # it came too late, or nobody asked
            while self._arrivals.qsize() >= MAX_ARRIVALS:
                self._arrivals.get_nowait()
            self._arrivals.put((rank, event))

    def _answer_ping(self, rank: int, ping: Ping) -> None:
        """Another client asks the device whether this one is there."""
        with contextlib.suppress(ExchangeError):
            self._channels[rank].send(Pong(sent_ns=ping.sent_ns, clock_ns=time.monotonic_ns()))

    def _is_awaited(self, rank: int, event: Control) -> bool:
        """Whether it answers what was asked and is not answered yet; raises :class:`RemoteProtocolError` for what was
        never asked."""
        if isinstance(event, DeviceReport):
            if event.number > self._num_asked:
                raise RemoteProtocolError(f"device {rank}: answers question {event.number}, which nobody asked")
            awaited = event.number == self._num_asked and rank in self._asked
            if awaited:  # and not one that comes late, of the question before
                self._asked.discard(rank)
            return awaited
        if isinstance(event, Pong):
            awaited = self._clock_ping == (rank, event.sent_ns)
            self._clock_ping = None if awaited else self._clock_ping
            return awaited
        return True

    def _ended(self, rank: int, event: Failed | ExchangeError) -> Failed | ExchangeError:
        """A device is lost, and with it the session unless it degrades: then it may come back."""
        if not self._goes_on:
            if len(self._endings) < MAX_ENDINGS:
                self._endings.append((rank, event))
            self.on_over()
            return event
        error = event if isinstance(event, ExchangeError) else PeerLostError(event.message)
        self._gone.setdefault(rank, error)
        for notes in (self._silent, self._pinged, self._late, self._failing):
            notes.pop(rank, None)
        self._rejoiner.look()
        return error

    def follow(self, request: int, inbox: Inbox, most_bytes: Mapping[int, int]) -> None:
        """From now on what comes for a request goes there, and what ends the session too, if it came before.

        ``most_bytes`` are those of a message of the request, by tag.
        """
        with self._routing:
            self._inboxes.follow(request, inbox, most_bytes)
            for arrival in (*self._endings, *self._gone.items()):
                self._inboxes.put_in(request, arrival)

    def forget(self, request: int) -> None:
        """Nobody waits for the request any more."""
        with self._routing:
            self._inboxes.forget(request)

    def send(self, rank: int, *events: Control | Data) -> None:
        """Queue events for a device, all or none, unless a session that degrades has lost it; raises
        :class:`PeerLostError` when the session is broken."""
        self.check()
        if rank in self._gone:
            return
        channel = self._channels[rank]  # one that comes back meanwhile does not get the rest
        try:
            for event in events:
                channel.send(event)
        except LocalProtocolError as error:
            if self._goes_on:
                return  # that it is lost is about to be told
            raise PeerLostError(f"device {rank} is not in the session any more: {error}") from error

    def check(self) -> None:
        """Raise what broke the session, if anything did."""
        if self._broken is not None:
            raise again(self._broken)
        if self._closing.is_set():
            raise LocalProtocolError("the session is closed; open a new one")

    def check_rank(self, rank: int) -> None:
        """Raise what happened to a device, if it is lost."""
        error = self._gone.get(rank)
        if error is not None:
            raise again(error)

    def receive(self, deadline: float, doing: str, waiting: set[int] | None = None) -> Arrival:
        """The next event of any device that is of no request, an error where the session goes on without a device.

        Raises :class:`DeadlineError`, and :class:`PeerLostError` for good.
        """
        try:
            rank, event = self._arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise late(waiting or set(self._channels), doing) from None
        if isinstance(event, ExchangeError) and not self._goes_on:
            raise self.lost(event)
        return rank, event

    def lost(self, error: ExchangeError) -> ExchangeError:
        """The error that a lost connection means, to be raised: the session is over."""
        self._broken = self._broken or error
        self.on_over()
        return again(error)

    def explain(
        self, reports: Sequence[Failed], lost: ExchangeError | None, ends_session: bool = True
    ) -> ExchangeError:
        """The error that devices' reports of one failure mean; ``lost``: a connection that was lost with it."""
        cause = _cause(reports)
        error = _ERRORS.get(cause.code, RemoteError)(cause.message)
        if cause.code == "deadline":
            self._note_late(cause.rank if cause.waiting_for in (None, CLIENT) else cause.waiting_for, cause.message)
        if not ends_session:
            return error
        if cause.code == "peer-lost":
            return self.lost(error)  # who reports a lost peer ends the session too, and is not the cause
        if lost is not None:
            self.lost(lost)
        return error

    def late(self, ranks: Collection[int], doing: str) -> DeadlineError:
        """The error that these devices' silence means, to be raised."""
        error = late(ranks, doing)
        for rank in ranks:
            self._note_late(rank, str(error))
        return error

    def _explain_set_up(self, failed: Failed) -> ExchangeError:
        """Waits a moment for reports of others that name the cause."""
        reports, limit = [failed], time.monotonic() + GATHER_S
        lost: ExchangeError | None = None
        while (left := limit - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                _, event = self._arrivals.get(timeout=left)
                if isinstance(event, Failed):
                    reports.append(event)
                elif isinstance(event, ExchangeError):
                    lost = lost or event
        return self.explain(reports, lost)

    def ask(self, what: Literal["trace", "counters"], last: int, deadline: float) -> dict[int, dict[str, Any]]:
        """The answer of every device that is there, by rank."""
        asked = set(self._expected) - (self.absent() if self._on_missing == "degrade" else self.gone())
        with self._routing:
            self._num_asked, self._asked = self._num_asked + 1, set(asked)
            number = self._num_asked
        for rank in asked:
            self.send(rank, Ask(what=what, number=number, last=last))
        answers: dict[int, dict[str, Any]] = {}
        while waiting := asked - self.gone() - set(answers):
            rank, event = self.receive(deadline, f"answering for the {what}", waiting)
            if isinstance(event, DeviceReport) and event.number == number:
                answers[rank] = event.data
        return answers

    def clock(self, rank: int, deadline: float) -> ClockOffset:
        """The device's clock against ours."""
        pings = []
        for _ in range(_PINGS):
            ping = Ping(sent_ns=time.monotonic_ns())
            with self._routing:
                self._clock_ping = (rank, ping.sent_ns)
            self.send(rank, ping)
            while True:
                source, event = self.receive(deadline, "answering a ping", {rank})
                self.check_rank(rank)
                if isinstance(event, Pong) and (source, event.sent_ns) == (rank, ping.sent_ns):
                    break
            pings.append((event.sent_ns, event.clock_ns, time.monotonic_ns()))
        return best_clock(pings)

    def traffic(self) -> dict[str, Any]:
        """What the client's ends of the connections counted."""
        return {str(rank): channel.traffic() for rank, channel in self._channels.items()}

    def close(self) -> None:
        """Say Bye to all and close; takes at most about a second a device that does not answer."""
        self._closing.set()
        with self._routing:
            self._inboxes.put_in_all((CLIENT, LocalProtocolError("the session was closed before the answer came")))
            self._inboxes.clear()
        self.leave()

    def close_descriptors(self) -> None:
        """In a process that was forked: the connections are those of the other process, which goes on with them."""
        for channel in list(self._channels.values()):
            channel.close_descriptors()

    def leave(self) -> None:
        """The same after the end, when all who wait have heard of it: all connections at the same time."""
        self._rejoiner.close()
        channels = dict(self._channels)
        self._for_all(list(channels), lambda rank: channels[rank].close())


def _told_loss(rank: int, event: Control | Data | ExchangeError) -> tuple[int, str]:
    """The device that a session's end is about, and what is said of it; another one may have told."""
    if isinstance(event, Failed):
        return rank if event.waiting_for is None else event.waiting_for, event.message
    return rank, str(event)


def _next_but_pings(channel: Channel, deadline: float) -> Event:
    """The next event of a channel that is not started; pings are answered."""
    while isinstance(event := channel.next_event(deadline), Ping):
        channel.send_now(Pong(sent_ns=event.sent_ns, clock_ns=time.monotonic_ns()), deadline)
    return event


def late(ranks: Collection[int], doing: str) -> DeadlineError:
    """These devices should have answered."""
    who = ", ".join(f"device {rank}" for rank in sorted(ranks))
    return DeadlineError(f"no answer in time from {who} while {doing}; is it frozen or overloaded?")


def _cause(reports: Sequence[Failed]) -> Failed:
    """Of several reports the one nearest to the cause: a real failure, then who waits for one that is silent."""
    failing = {report.rank for report in reports}

    def order(report: Failed) -> tuple[bool, bool]:
        return report.code == "deadline", report.waiting_for in failing

    return min(reports, key=order)
