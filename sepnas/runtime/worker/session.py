"""One client's session on one device: set-up, requests in order, and the end.

After a failed request (deadline, failed computation) the session goes on with the next one, and messages that still
come for the failed one are dropped. Once the client is lost the session is over and the worker waits for a new one;
so it is after a lost peer, unless the session degrades: then its requests do without that peer.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Literal

from sepnas.errors import ExchangeError, HandshakeError, LocalProtocolError, PeerLostError, SepnasError
from sepnas.plan.steps import CLIENT, Recv
from sepnas.runtime.memory import give_back
from sepnas.runtime.protocol.events import Data, ErrorCode, Missed, Ready, Setup, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.unexpected import say_once, survives
from sepnas.runtime.worker.client_link import ClientLink
from sepnas.runtime.worker.context import WorkerContext
from sepnas.runtime.worker.executor import Executor
from sepnas.runtime.worker.intake import Intake
from sepnas.runtime.worker.log import SessionLog
from sepnas.runtime.worker.own_outputs import OwnOutputs
from sepnas.runtime.worker.peers import SessionPeers, gone
from sepnas.runtime.worker.records import SessionRecords
from sepnas.runtime.worker.request_queue import RequestQueue, SessionEnd
from sepnas.runtime.worker.runner import MAX_TIMEOUT_S, RequestRunner
from sepnas.runtime.worker.stats import OpenSession
from sepnas.spec.document import short

SETUP_WAIT_S = 30.0
"""Time that a welcomed client has to send its Setup."""


class WorkerSession:
    """Serves one client; :meth:`serve` runs in the thread of the accepted connection.

    Args:
        context: what the worker's sessions share.
        channel: the client's channel, greeted and not yet welcomed.
        name: the session's name; peers that dial must know it.
    """

    def __init__(self, context: WorkerContext, channel: Channel, name: str) -> None:
        shard = context.shard
        self.name, self._context, self._shard = name, context, shard
        self._log = SessionLog(context.log, name)
        self._queue = RequestQueue()
        self._client = ClientLink(channel, shard.rank, name)
        self._own = OwnOutputs(self._post)
        self._intake = Intake(shard, self._queue, self._client, self._own)
        self._peers = SessionPeers(context, name, self._client, self._queue, self._log, self._intake.from_peer)
        programs = {plan.name: plan.program for plan in shard.plans.values()}
        self._records = SessionRecords(programs, context.emulated)
        self._runner = self._make_runner()

    def _make_runner(self) -> RequestRunner:
        context, queue = self._context, self._queue
        pace = context.emulated.pace if context.emulated else None
        executors = {
            name: Executor(plan, context.engine, queue.mailbox, self._post, pace, self._on_missed)
            for name, plan in self._shard.plans.items()
        }
        return RequestRunner(
            executors, queue, self._client, self._peers, self._own, self._records, context.stats, self._log
        )

    def serve(self) -> None:
        """Serve until the client leaves, a peer is lost or :meth:`stop`. Errors are told to the client, not raised."""
        channel, stats = self._client.channel, self._context.stats
        reason = "the client left before the session was set up"
        stats.session = OpenSession(self.name, time.monotonic())
        stats.follow(CLIENT, channel.sent, channel.received)
        self._log.say("session opened", origin=channel.peer)
        try:
            self._context.engine.prepare_thread()
            channel.connection.expect(self._shard.expected_from(CLIENT))
            channel.send_now(Welcome(rank=self._shard.rank), time.monotonic() + SETUP_WAIT_S)
            if self._set_up():
                self._runner.work()
        except ExchangeError as error:
            reason = str(error)  # the client is gone: it cannot be told
        except Exception as error:
            say_once("a session", error)
            reason = f"unexpected {type(error).__name__}: {error}"
        finally:
            ending = self._queue.ending
            self._close()
            stats.session = None
            reason = str(ending.error) if ending else reason
            self._log.say("session closed", reason=reason, requests=self._records.requests)

    def stop(self, reason: str) -> None:
        """End the session from another thread; ``reason`` completes "device 1 ..."."""
        self._queue.end(SessionEnd(PeerLostError(f"device {self._shard.rank} {reason}")))
        if self._client.is_setting_up:
            with contextlib.suppress(OSError):  # nothing else wakes the thread that waits for its Setup
                self._client.channel.pipe.sock.shutdown(socket.SHUT_RDWR)

    @property
    def client(self) -> ClientLink:
        """The client that holds the device."""
        return self._client

    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one runs or waits."""
        return self._runner.idle_s()

    def attach(self, channel: Channel, rank: int) -> bool:
        """Take the channel of a peer that dialed; False if it is not expected."""
        return self._peers.attach(channel, rank)

    # -- set-up

    def _set_up(self) -> bool:
        """Take the client's Setup and connect to the peers; False if that failed, which the client then knows."""
        channel, emulated = self._client.channel, self._context.emulated
        setup = channel.next_event(time.monotonic() + SETUP_WAIT_S)
        if not isinstance(setup, Setup):
            return False
        if emulated:
            channel.link = emulated.links.link(CLIENT)
        channel.start(self._intake.from_client, self._on_client_end, self._queue.changed)
        self._peers.degrade = setup.on_missing == "degrade"
        deadline = time.monotonic() + min(setup.deadline_ms / 1e3, MAX_TIMEOUT_S)
        try:
            self._take_plans(setup)
        except HandshakeError as error:
            return self._tell_setup_failed("handshake", str(error))
        try:
            self._peers.connect(setup, deadline)
        except SepnasError as error:
            code: ErrorCode = "handshake" if isinstance(error, HandshakeError) else "peer-unreachable"
            message = f"device {self._shard.rank} cannot connect to its peers: {error}"
            return self._tell_setup_failed(code, message)
        self._client.channel.send(Ready())
        return True

    def _take_plans(self, setup: Setup) -> None:
        """Serve the plans that the client names, if they are the same here; raises :class:`HandshakeError`."""
        plans, emulated = self._shard.manifest.plans, self._context.emulated
        for name, digest in setup.plans.items():
            if name not in plans or plans[name].digest != digest:
                problem = "has no plan" if name not in plans else "has another plan"
                raise HandshakeError(
                    f"device {self._shard.rank} {problem} {short(name)}: its folder and the client's are of different "
                    "exports; copy the device's folder again, or open the session without this plan"
                )
        allowed = set(setup.plans or plans)
        if emulated is not None:
            allowed &= {emulated.plan}
        self._intake.allow(allowed)

    def _tell_setup_failed(self, code: ErrorCode, message: str) -> Literal[False]:
        self._queue.end(SessionEnd(PeerLostError(message)))
        self._client.tell_failed(code, message, waiting_for=self._peers.waiting_for)
        return False

    # -- at work

    def _on_client_end(self, error: ExchangeError | None) -> None:
        left = PeerLostError(str(error) if error else "the client has left")
        self._queue.end(SessionEnd(left, tell=False))

    def _on_missed(self, request: int, step: Recv) -> None:
        self._context.stats.missed += 1
        self._client.tell(Missed(request=request, rank=self._shard.rank, source=step.source, tag=step.tag))

    def _post(self, rank: int, data: Data) -> None:
        if rank != CLIENT:
            return self._peers.post(rank, data)
        try:
            self._client.channel.send(data)
        except LocalProtocolError as error:
            raise gone(self._client.channel, error) from error

    # -- the end

    def _close(self) -> None:
        peers = self._peers.end(SessionEnd(PeerLostError("the session is over"), tell=False))
        closing = [channel.close for channel in (*peers.values(), self._client.channel)]
        for step in (*closing, self._queue.close, self._forget):
            with survives("the end of a session"):
                step()

    def _forget(self) -> None:
        """Free what was kept now, not when the garbage collector finds the session."""
        self._queue.forget()
        self._records.forget()
        self._own.forget()
        give_back()
