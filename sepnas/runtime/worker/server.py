"""The worker: one process on each device, that waits for a client and serves it.

One client at a time: a second one is refused while the first is there, unless it only asks for the status. When a
session ends, however it ends, the worker waits for the next client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

import sepnas
from sepnas.errors import ExchangeError
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine, TorchEngine, calls_of_a_pass
from sepnas.runtime.protocol.events import STATUS, Hello
from sepnas.runtime.transport.admission import AdmissionControl
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import accept, check_greeting, check_loopback, refuse
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.listening import listening_socket
from sepnas.runtime.transport.live_identity import LiveIdentity
from sepnas.runtime.unexpected import start_thread, survives
from sepnas.runtime.worker.context import WorkerContext
from sepnas.runtime.worker.log import WorkerLog
from sepnas.runtime.worker.pace import EmulatedDevice
from sepnas.runtime.worker.peer_guard import PeerGuard
from sepnas.runtime.worker.session import WorkerSession
from sepnas.runtime.worker.session_slot import SessionSlot
from sepnas.runtime.worker.stats import WorkerStats
from sepnas.runtime.worker.status import MAX_INSPECTIONS, Inspections
from sepnas.spec.hosts import Hosts, format_address

HANDSHAKE_S = 5.0
"""Handshake timeout for a new connection, in seconds."""
_REFUSAL_S = 1.0
_ACCEPT_PAUSE_S = 0.05


class Worker:
    """Serves one device's shard at an address.

    Args:
        shard_dir: the device's folder of a deployment; every file is checked.
        host, port: where to listen; port 0 takes any free port (see :attr:`address`).
        threads: CPU threads for computing.
        insecure: plain TCP; on loopback addresses only.
        handshake_s: handshake timeout for a new connection, in seconds.
        engine: makes the engine from the shard and the number of threads.
        emulation: makes the device to behave like, from the shard.
        stats: counts what the worker does.
        hosts: a hosts file with the peers' addresses, which then count instead of the client's.

    Raises:
        DeploymentError: the folder is damaged or of another deployment.
        SpecError: the emulation is damaged or of another device or deployment.
        HandshakeError: the certificate has expired.
        ListenError: the address is in use or not ours.
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        host: str,
        port: int,
        *,
        threads: int = 1,
        insecure: bool = False,
        handshake_s: float = HANDSHAKE_S,
        engine: Callable[[Shard, int], Engine] = TorchEngine,
        emulation: Callable[[Shard], EmulatedDevice] | None = None,
        stats: WorkerStats | None = None,
        hosts: str | os.PathLike[str] | None = None,
    ) -> None:
        if insecure:
            check_loopback(host)
        shard = load_shard(shard_dir)
        identity = None if insecure else _identity(shard)
        pinned = None if hosts is None else _pinned_hosts(hosts, shard)
        emulated = None if emulation is None else emulation(shard)
        self._listener = listening_socket(host, port)  # before the engine, which takes long to load
        self.address = format_address(host, self._listener.getsockname()[1])
        made = engine(shard, threads)
        self._context = _make_context(shard.without_segments(), made, identity, stats, pinned, emulated)
        _warm_up(self._context)
        self._handshake_s = handshake_s
        self._inspections = Inspections(self.stats)
        self._admission, self._slot = AdmissionControl(), SessionSlot()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._stopping = threading.Event()

    @property
    def shard(self) -> Shard:
        """The device's part of the deployment, without the segments that the engine has loaded."""
        return self._context.shard

    @property
    def stats(self) -> WorkerStats:
        return self._context.stats

    # -- accepting

    def serve_forever(self) -> None:
        """Accept clients and peers until :meth:`stop`; then end the session and close the address."""
        self._context.log.say("started", listen=self.address, engine=self.stats.engine, version=sepnas.__version__)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while not self._stopping.is_set():
                with survives("who accepts connections"):
                    for key, _ in selector.select():
                        if key.fileobj is self._listener:
                            self._accept()
        self._shut_down()

    def stop(self) -> None:
        """Let :meth:`serve_forever` return; may be called from a signal handler or another thread."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"x")

    def _shut_down(self) -> None:
        """Take each step, even if one before it fails."""
        log = self._context.log
        steps = (
            self._listener.close, self._inspections.close, self._slot.close, self._wake_receiver.close,
            self._wake_sender.close, log.close,
        )  # fmt: skip
        for step in steps:
            with survives("who ends the worker"):
                step()
        log.say("stopped", requests=self.stats.served)
        with survives("who ends the worker"):
            log.flush()

    def _accept(self) -> None:
        try:
            sock, origin = self._listener.accept()
        except OSError:
            time.sleep(_ACCEPT_PAUSE_S)  # it is gone already, or no descriptor is left: no busy loop
            return
        self._admission.enter(sock, origin[0])
        if not start_thread(self._meet, sock, *origin[:2]):
            self._admission.leave(sock)
            self._log_refusal("busy", format_address(*origin[:2]), "this machine has no thread left")
            time.sleep(_ACCEPT_PAUSE_S)

    # -- greeting, in a thread for each connection

    def _meet(self, sock: socket.socket, host: str, port: int) -> None:
        with survives("who greets a connection"):
            try:
                self._greet(sock, format_address(host, port))
            except Exception:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                raise

    def _greet(self, sock: socket.socket, origin: str) -> None:
        deadline = time.monotonic() + self._handshake_s
        try:
            with self._admission.greeting(sock, deadline):
                channel, hello = accept(sock, self._context.identity, origin, deadline)
        except (ExchangeError, OSError) as error:
            sock.close()
            self._log_refusal("handshake", origin, str(error))
            return
        manifest = self.shard.manifest
        refusal = check_greeting(hello, manifest.deployment_id, manifest.num_devices, manifest.rank)
        if refusal:
            self._refuse(channel, *refusal, deadline)
        elif hello.purpose == STATUS:
            self._serve_status(channel, deadline)
        elif hello.rank < 0:
            self._serve_client(channel, hello, deadline)
        else:
            self._attach_peer(channel, hello, deadline)

    def _refuse(self, channel: Channel, code: str, reason: str, deadline: float) -> None:
        self._log_refusal(code, channel.peer, reason)
        refuse(channel, code, reason, deadline)

    def _log_refusal(self, code: str, origin: str, reason: str) -> None:
        self._context.log.say_summed(f"refused {code}", "refused", origin=origin, code=code, reason=reason)

    # -- serving

    def _serve_status(self, channel: Channel, deadline: float) -> None:
        self._context.log.say("status", logging.DEBUG, origin=channel.peer)
        if not self._inspections.serve(channel, deadline):
            rank = self.shard.rank
            reason = f"{MAX_INSPECTIONS} clients ask device {rank} for its status already; try again later"
            self._refuse(channel, "busy", reason, deadline)

    def _serve_client(self, channel: Channel, hello: Hello, deadline: float) -> None:
        session = self._slot.claim(hello.session, lambda: WorkerSession(self._context, channel, hello.session))
        if session is None:
            channel.abort()
        elif isinstance(session, str):
            reason = f"device {self.shard.rank} serves another client: {session}; try again when that one is done"
            self._refuse(channel, "busy", reason, max(deadline, time.monotonic() + _REFUSAL_S))
        else:
            try:
                session.serve()
            finally:
                self._slot.release()

    def _attach_peer(self, channel: Channel, hello: Hello, deadline: float) -> None:
        session = self._slot.session
        try:
            attached = session is not None and session.name == hello.session and session.attach(channel, hello.rank)
        except ExchangeError:
            channel.abort()
            return
        if not attached:
            self._refuse(channel, "session", f"device {self.shard.rank} is not in session '{hello.session}'", deadline)


def _make_context(
    shard: Shard,
    engine: Engine,
    identity: Identity | None,
    stats: WorkerStats | None,
    pinned: Hosts | None,
    emulated: EmulatedDevice | None,
) -> WorkerContext:
    stats = stats or WorkerStats()
    stats.rank = shard.rank
    stats.engine = stats.engine or type(engine).__name__
    log = WorkerLog(shard.rank)
    return WorkerContext(shard, engine, identity, stats, log, PeerGuard(shard.rank, log, pinned), emulated)


def _pinned_hosts(path: str | os.PathLike[str], shard: Shard) -> Hosts:
    hosts = Hosts.load(path)
    for rank in shard.manifest.peers():
        hosts.address(rank)  # raises if the peer is not named
    return hosts


def _identity(shard: Shard) -> Identity:
    return LiveIdentity(shard.folder, "tls", shard.manifest.files, shard.rank, shard.manifest.deployment_id)


def _warm_up(context: WorkerContext) -> None:
    """Run each segment once: the first request is then as fast as the others, and a broken segment shows here."""
    calls = {
        segment: inputs
        for plan in context.shard.plans.values()
        for segment, inputs in calls_of_a_pass(context.shard, plan)
    }
    for segment, inputs in calls.items():
        context.engine.run(segment, inputs)
