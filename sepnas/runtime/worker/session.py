"""One client's session on one device: set-up, requests in order, and the end.

After a failed request (deadline, failed computation) the session goes on with the next one; what still comes for
the failed one is dropped. After a lost client the session is over, and the worker waits for a new one; after a lost
peer too, unless the session degrades: then its requests do without that peer.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

from sepnas.errors import (
    DeadlineError,
    ExchangeError,
    HandshakeError,
    LocalProtocolError,
    PeerLostError,
    RemoteProtocolError,
    SepnasError,
)
from sepnas.plan.steps import CLIENT, Recv
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.memory import give_back
from sepnas.runtime.protocol.connection import Phase
from sepnas.runtime.protocol.events import (
    Ask,
    Cancel,
    Control,
    Data,
    DeviceReport,
    ErrorCode,
    Failed,
    Hello,
    Missed,
    PartialData,
    Ping,
    Pong,
    Ready,
    Recall,
    Request,
    Setup,
    Welcome,
)
from sepnas.runtime.protocol.times import RequestTimes, step_rows
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.polling import close_condition, new_condition
from sepnas.runtime.unexpected import say_once, survives
from sepnas.runtime.worker.executor import Executor, Run, StepError, error_code, error_text
from sepnas.runtime.worker.gauges import Gauges, OpenSession, short_name
from sepnas.runtime.worker.log import WorkerLog
from sepnas.runtime.worker.mailbox import Mailbox
from sepnas.runtime.worker.pace import EmulatedDevice
from sepnas.runtime.worker.peer_guard import PeerGuard

SETUP_WAIT_S = 30.0
"""How long a client that was welcomed may take to say where the peers are."""
MAX_SETTING_UP_S = 15.0
"""While it has not, others that ask wait for it so long."""
_BEFORE_SETUP = (Phase.GREETED, Phase.SETTING_UP)
MAX_TRACES = 256
MAX_TRACE_ROWS = 50_000
"""Steps in one answer: it stays within ``MAX_ANSWER_BYTES``."""
MAX_DEADLINE_S = 86_400.0
"""Longer ones of a client count as a day, as its own session has it."""
_MAX_LOGITS = 32
"""Of so many requests the device's own logits are kept, should the client ask for them."""
_FLUSH_S = 5.0

_Job: TypeAlias = tuple[Request | Ask, float] | None
"""A request with its time of arrival; None only wakes the worker to see that the session is over."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """Why a session ends; ``rank`` is the peer that was lost. The client is told, unless it is the one that left."""

    error: PeerLostError
    rank: int | None = None
    tell: bool = True


class WorkerSession:
    """Serves one client; :meth:`serve` runs in the thread of the accepted connection.

    Args:
        shard: what this device runs.
        engine: what it runs it with.
        client: the client's channel, greeted and not yet welcomed.
        name: the session's name: peers that dial in must know it.
        gauges, log: where the worker counts, and writes down, what happens.
        guard: decides where peers may be dialed.
        emulated: what the device is to behave like, if anything.
    """

    def __init__(
        self,
        shard: Shard,
        engine: Engine,
        identity: Identity | None,
        client: Channel,
        name: str,
        gauges: Gauges,
        log: WorkerLog,
        guard: PeerGuard,
        emulated: EmulatedDevice | None = None,
    ) -> None:
        self._guard = guard
        self.name, self._emulated = name, emulated
        self._gauges, self._log = gauges, log
        self._shard, self._engine, self._identity, self._client = shard, engine, identity, client
        self._changed = new_condition()
        self._mailbox = Mailbox(self._changed)
        self._peers: dict[int, Channel] = {}
        self._lost: set[int] = set()
        self._peers_changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._ending: _Ending | None = None
        self._waiting_for: int | None = None
        pace = emulated.pace if emulated else None
        self._executor = Executor(shard, engine, self._mailbox, self._post, pace, self._tell_missed)
        self._degrade = False
        self._logits: OrderedDict[int, Payload] = OrderedDict()
        self._recalled: dict[int, int] = {}
        self._recalling = threading.Lock()
        self._opened_s = self._heard_s = self._busy_s = time.monotonic()
        self._running = False
        self._traces: deque[RequestTimes] = deque(maxlen=MAX_TRACES)
        self._requests = 0

    def serve(self) -> None:
        """Until the client leaves, a peer is lost or :meth:`stop`; errors are told to the client, not raised."""
        reason = "the client left before the session was set up"
        self._gauges.session = OpenSession(self.name, time.monotonic())
        self._gauges.follow(CLIENT, self._client.sent, self._client.received)
        self._say("session opened", origin=self._client.peer)
        try:
            self._engine.prepare_thread()
            self._client.connection.expect(self._shard.expected_from(-1))
            self._client.send_now(Welcome(rank=self._shard.rank), time.monotonic() + SETUP_WAIT_S)
            if self._set_up():
                self._work()
        except ExchangeError as error:
            reason = str(error)  # the client is gone, there is nobody to tell
        except Exception as error:
            say_once("a session", error)
            reason = f"unexpected {type(error).__name__}: {error}"
        finally:
            ending = self._ending
            self._close()
            self._gauges.session = None
            self._say("session closed", reason=str(ending.error) if ending else reason, requests=self._requests)

    def stop(self, reason: str) -> None:
        """End the session from another thread."""
        self._end(_Ending(PeerLostError(f"device {self._shard.rank} {reason}")))
        if self._client.connection.phase in _BEFORE_SETUP:
            with contextlib.suppress(OSError):  # nothing else wakes who waits for its Setup
                self._client.pipe.sock.shutdown(socket.SHUT_RDWR)

    # -- who holds the device

    @property
    def holder(self) -> str:
        """Who is served and since when, for another one who asks."""
        now = time.monotonic()
        since = datetime.now(timezone.utc) - timedelta(seconds=now - self._opened_s)
        return (
            f"{self._client.peer}, since {since:%Y-%m-%d %H:%M:%S} UTC, last heard {now - self._heard_s:.0f} s ago, "
            f"session {short_name(self.name)}"
        )

    def ask_whether_there(self) -> None:
        """Ping the client, if it has come so far."""
        with contextlib.suppress(ExchangeError):
            self._client.send(Ping(sent_ns=time.monotonic_ns()))

    def was_heard_since(self, moment: float) -> bool:
        """Whether the client has said anything since then (``time.monotonic`` seconds); one that has just come is still
        dialing other devices."""
        begins = self._client.connection.phase in _BEFORE_SETUP
        return self._heard_s >= moment or (begins and time.monotonic() - self._opened_s < MAX_SETTING_UP_S)

    def idle_s(self) -> float:
        """How long no request has been asked for or worked on."""
        return 0.0 if self._running or self._jobs else time.monotonic() - self._busy_s

    def attach(self, channel: Channel, rank: int) -> bool:
        """A peer dialed in, perhaps once more after it was lost; False when it is not expected (any more)."""
        with self._peers_changed:
            if self._ending or rank not in self._shard.manifest.peers or (rank in self._peers and not self._degrade):
                return False
            channel.connection.expect(self._shard.expected_from(rank))
            channel.send_now(Welcome(rank=self._shard.rank), time.monotonic() + 1.0)
            if before := self._peers.pop(rank, None):
                before.abort()
            self._adopt(channel, rank)
            return True

    # -- set-up

    def _set_up(self) -> bool:
        """Take the client's Setup and connect to the peers; False when that failed, which the client then knows."""
        setup = self._client.next_event(time.monotonic() + SETUP_WAIT_S)
        if not isinstance(setup, Setup):
            return False
        if self._emulated:
            self._client.way = self._emulated.ways.way(-1)
        self._client.start(self._from_client, self._client_ended, self._changed)
        self._degrade = setup.on_missing == "degrade"
        deadline = time.monotonic() + min(setup.deadline_ms / 1e3, MAX_DEADLINE_S)
        try:
            self._connect_peers(setup, deadline)
        except SepnasError as error:
            self._tell_setup_failed(error)
            return False
        self._client.send(Ready())
        return True

    def _tell_setup_failed(self, error: SepnasError) -> None:
        mine = self._shard.rank
        message = f"device {mine} cannot connect to its peers: {error}"
        self._ending = self._ending or _Ending(PeerLostError(message))
        code: ErrorCode = "handshake" if isinstance(error, HandshakeError) else "peer-unreachable"
        self._tell(Failed(code=code, rank=mine, waiting_for=self._waiting_for, message=message))

    def _connect_peers(self, setup: Setup, deadline: float) -> None:
        """Dial the lower ranks; the higher ones dial us, unless we come back to them."""
        mine = self._shard.rank
        for rank in self._shard.manifest.peers:
            address = setup.peers.get(str(rank))
            if address is None and (setup.rejoin or self._degrade):
                self._mailbox.lose(rank)  # it dials us when it is back
            elif setup.rejoin or rank < mine:
                self._waiting_for = rank
                address = self._guard.address(rank, address)
                if address is None:
                    raise HandshakeError(f"the client did not say where device {rank} listens")
                self._dial(rank, address, deadline)
        if not setup.rejoin:
            there = {rank for rank in self._shard.manifest.peers if str(rank) in setup.peers or not self._degrade}
            self._await_peers(there, deadline)

    def _dial(self, rank: int, address: str, deadline: float) -> None:
        own = self._shard
        hello = Hello(deployment_id=own.manifest.deployment_id, rank=own.rank, session=self.name)
        client_host = self._client.pipe.sock.getpeername()[0]
        opening = self._guard.opening(rank, address, client_host, deadline, lambda: self._ending is not None)
        channel = dial(rank, address, hello, self._identity, own.expected_from(rank), deadline, opening)
        with self._peers_changed:
            self._adopt(channel, rank)

    def _await_peers(self, there: set[int], deadline: float) -> None:
        with self._peers_changed:
            while missing := there - self._peers.keys():
                self._waiting_for = min(missing)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineError(f"device {self._waiting_for} did not connect in time")
                if self._ending:
                    raise self._ending.error
                self._peers_changed.wait(min(left, 0.2))

    def _adopt(self, channel: Channel, rank: int) -> None:
        """Start a peer's channel; the lock of the peers is held."""
        self._gauges.follow(rank, channel.sent, channel.received)
        if rank in self._lost:
            self._lost.discard(rank)
            self._say("peer returned", peer=rank)
        if self._emulated:
            channel.way = self._emulated.ways.way(rank)
        self._mailbox.find(rank)
        channel.start(self._from_peer, lambda error: self._peer_ended(rank, channel, error), self._changed)
        self._peers[rank] = channel  # now that it is ready to send
        self._peers_changed.notify_all()

    # -- what comes in (in the channels' threads)

    def _from_client(self, event: Control | Data) -> None:
        self._heard_s = time.monotonic()
        if isinstance(event, Data):
            self._keep_message(event, announced=True)
        elif isinstance(event, Recall):
            self._recall(event)
        elif isinstance(event, Ping):
            with contextlib.suppress(LocalProtocolError):
                self._client.send(Pong(sent_ns=event.sent_ns, clock_ns=time.monotonic_ns()))
        elif isinstance(event, Cancel):
            self._mailbox.cancel(event.request)
            self._drop_job(lambda job: isinstance(job, Request) and job.request == event.request)
        elif isinstance(event, Request):
            self._take_request(event)
        elif isinstance(event, Ask):
            self._drop_job(lambda job: isinstance(job, Ask))  # the client waits for the last one only
            self._put((event, time.monotonic()))

    def _take_request(self, event: Request) -> None:
        if len(event.without) > self._shard.manifest.num_devices:
            raise RemoteProtocolError(
                f"request {event.request} is without {len(event.without)} devices: there are less"
            )
        if self._mailbox.announce(event.request):
            self._put((event, time.monotonic()))
        else:
            self._tell_dropped(event.request)

    def _keep_message(self, event: Data, announced: bool) -> None:
        partial = isinstance(event, PartialData)
        for request in self._mailbox.put(
            event.request, event.tag, event.payload, event.arrived_ns, partial, announced
        ):  # fmt: skip
            self._tell_dropped(request)

    def _tell_dropped(self, request: int) -> None:
        """There is no room for its messages, or it came too late; the client need not wait for it."""
        self._drop_job(lambda job: isinstance(job, Request) and job.request == request)
        mine, limit_mb = self._shard.rank, self._mailbox.max_bytes / 1e6
        message = (
            f"device {mine} dropped request {request}: more than {limit_mb:.0f} MB of messages waited; "
            "send smaller batches, or fewer at once"
        )
        self._tell(Failed(code="protocol", rank=mine, request=request, message=message))

    def _from_peer(self, event: Control | Data) -> None:
        if isinstance(event, Data):
            self._keep_message(event, announced=False)

    def _client_ended(self, error: ExchangeError | None) -> None:
        self._end(_Ending(PeerLostError(str(error) if error else "the client has left"), tell=False))

    def _peer_ended(self, rank: int, channel: Channel, error: ExchangeError | None) -> None:
        with self._peers_changed:
            taking_part = self._peers.get(rank) is channel and not self._ending  # it has not come back meanwhile
            if taking_part:
                self._note_lost(rank, error)
                if self._degrade:
                    self._mailbox.lose(rank)
        if self._degrade:
            if not taking_part:
                return
            own, message = self._shard.rank, f"device {self._shard.rank} lost {error or f'device {rank}'}"
            self._tell(Failed(code="peer-lost", rank=own, waiting_for=rank, message=message))
        elif error is None:
            # It said Bye: its client left it, and ours is about to leave us. Only who still waits must know.
            self._mailbox.fail(PeerLostError(f"device {rank} has ended the session"))
        else:
            lost = PeerLostError(f"device {self._shard.rank} lost {error}")
            self._end(_Ending(lost, rank))

    def _end(self, ending: _Ending) -> None:
        self._ending = self._ending or ending
        self._mailbox.fail(ending.error)
        self._put(None)

    # -- requests

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def _drop_job(self, unwanted: Callable[[Request | Ask], bool]) -> None:
        with self._changed:
            self._jobs = deque(job for job in self._jobs if job is None or not unwanted(job[0]))

    def _next_job(self) -> _Job:
        with self._changed:
            while not self._jobs:
                self._changed.wait()
            return self._jobs.popleft()

    def _work(self) -> None:
        while True:
            job = self._next_job()
            if self._ending or job is None:
                return self._tell_ending()
            event, arrived = job
            if isinstance(event, Ask):
                self._answer(event)
            elif not self._mailbox.is_over(event.request):
                self._run(event, arrived)

    def _tell_ending(self) -> None:
        ending = self._ending
        if ending and ending.tell:
            mine = self._shard.rank
            self._tell(Failed(code="peer-lost", rank=mine, waiting_for=ending.rank, message=str(ending.error)))

    def _run(self, event: Request, arrived: float) -> None:
        self._mailbox.begin(event.request)
        self._requests += 1
        self._running = True
        deadline = arrived + min(event.deadline_ms / 1e3, MAX_DEADLINE_S)
        run = Run(event.request, event.batch, deadline, self._degrade, frozenset(event.without), arrived)
        try:
            times = self._executor.run(run)
        except StepError as error:
            self._fail(event.request, error)
            error.error.with_traceback(None)  # whose frames hold tensors, and an error may be kept
        else:
            self._gauges.count_served(time.monotonic() - arrived)
            self._traces.append(RequestTimes(event.request, event.batch, times))
            if self._degrade and run.logits is not None:
                self._keep_logits(event.request, run.logits)
        finally:
            self._running, self._busy_s = False, time.monotonic()

    def _keep_logits(self, request: int, logits: Payload) -> None:
        with self._recalling:
            self._logits[request] = logits
            while len(self._logits) > _MAX_LOGITS:
                self._logits.popitem(last=False)
            tag = self._recalled.pop(request, None)
            self._recalled = {number: tag for number, tag in self._recalled.items() if number > request}
        if tag is not None:
            self._post(CLIENT, Data(request, tag, logits))

    def _recall(self, event: Recall) -> None:
        """Send the client the device's own logits, now or when they are there."""
        with self._recalling:
            logits = self._logits.get(event.request)
            if logits is None:
                self._recalled[event.request] = event.tag
                while len(self._recalled) > _MAX_LOGITS:
                    del self._recalled[min(self._recalled)]
        if logits is not None:
            with contextlib.suppress(PeerLostError):
                self._post(CLIENT, Data(event.request, event.tag, logits))

    def _tell_missed(self, request: int, step: Recv) -> None:
        self._gauges.missed += 1
        with contextlib.suppress(LocalProtocolError):
            self._client.send(Missed(request=request, rank=self._shard.rank, source=step.source, tag=step.tag))

    def _fail(self, request: int, error: StepError) -> None:
        """Count it, and tell a client that still waits."""
        left = self._ending is not None and not self._ending.tell
        if left or self._mailbox.is_over(request):
            self._gauges.failed["cancelled"] += 1
            return
        code = error_code(error.error)
        self._gauges.failed[code] += 1
        # of an error that is not ours only the class: its words may hold what was computed with
        told = str(error.error) if isinstance(error.error, SepnasError) else type(error.error).__name__
        where = self._executor.describe(error.step)
        self._log.say_summed(
            f"request failed {code}", "request failed", session=short_name(self.name), request=request, code=code,
            where=where, error=told,
        )  # fmt: skip
        if not self._ending:
            self._tell(self._failure(request, error))

    def _say(self, event: str, level: int = logging.INFO, **fields: str | int | None) -> None:
        self._log.say(event, level, session=short_name(self.name), **fields)

    def _note_lost(self, rank: int, error: ExchangeError | None) -> None:
        self._lost.add(rank)
        if error is not None:
            self._say("peer lost", logging.WARNING, peer=rank, reason=str(error))
        elif self._degrade:  # else the session is about to end
            self._say("peer left", peer=rank)

    def _failure(self, request: int, error: StepError) -> Failed:
        where = f"device {self._shard.rank}: {self._executor.describe(error.step)}"
        return Failed.model_validate(
            {
                "code": error_code(error.error),
                "rank": self._shard.rank,
                "request": request,
                "step": error.step,
                "waiting_for": error.waiting_for,
                "message": f"{where}: {error_text(error.error)}"[:4000],
            }
        )

    def _answer(self, ask: Ask) -> None:
        if ask.what == "trace":
            last = min(ask.last, MAX_TRACE_ROWS // max(1, len(self._shard.program)))
            wanted = list(self._traces)[-last:] if last else []
            data: dict[str, Any] = {"requests": [step_rows(self._shard.program, times) for times in wanted]}
        else:
            limit = time.monotonic() + _FLUSH_S
            for channel in (*self._peers.values(), self._client):
                channel.flush(max(0.0, limit - time.monotonic()))
            links = {str(rank): channel.traffic() for rank, channel in self._peers.items()}
            data = {"requests": self._requests, "links": links | {"-1": self._client.traffic()}}
            data |= {"emulated": self._emulated.lateness()} if self._emulated else {}
        with contextlib.suppress(LocalProtocolError):
            self._client.send(DeviceReport(what=ask.what, number=ask.number, data=data))

    def _post(self, rank: int, data: Data) -> None:
        channel = self._client if rank < 0 else self._peers.get(rank)
        if channel is None:
            return  # it was not there when this device came back
        try:
            channel.send(data)
        except LocalProtocolError as error:
            if self._degrade and rank != CLIENT:
                return
            raise PeerLostError(f"{channel.peer} is not there any more: {error}") from error

    def _tell(self, failed: Failed) -> None:
        with contextlib.suppress(LocalProtocolError):
            self._client.send(failed)

    def _close(self) -> None:
        with self._peers_changed:
            self._end(_Ending(PeerLostError("the session is over"), tell=False))
            peers = list(self._peers.values())
        steps = (*(channel.close for channel in (*peers, self._client)), self._close_condition, self._forget)
        for step in steps:
            with survives("the end of a session"):
                step()

    def _close_condition(self) -> None:
        close_condition(self._changed)

    def _forget(self) -> None:
        """What was kept goes now, and not when the collector finds that the session is not used any more."""
        self._mailbox.close()
        self._jobs.clear()
        if self._ending:
            self._ending.error.with_traceback(None)
        self._traces.clear()
        with self._recalling:
            self._logits.clear()
            self._recalled.clear()
        give_back()
