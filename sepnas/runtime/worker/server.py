"""The worker: one process on each device, that waits for a client and serves it.

One client at a time: a second one is refused while the first is there, unless it only asks for the status. When a
session ends, however it ends, the worker waits for the next client.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import sepnas
from sepnas.errors import ExchangeError, ListenError
from sepnas.runtime.engines.choice import make_engine
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine, TorchEngine, calls_of_a_pass
from sepnas.runtime.line_writer import announce
from sepnas.runtime.protocol.events import STATUS, Hello
from sepnas.runtime.transport.admission import Doorman
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import accept, check_greeting, check_loopback, is_loopback, refuse
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.live_identity import LiveIdentity
from sepnas.runtime.transport.lookup import LookupTimeoutError
from sepnas.runtime.transport.sockets import listen
from sepnas.runtime.unexpected import start_thread, survives
from sepnas.runtime.worker.gauges import Gauges
from sepnas.runtime.worker.log import WorkerLog
from sepnas.runtime.worker.pace import EmulatedDevice
from sepnas.runtime.worker.peer_guard import PeerGuard
from sepnas.runtime.worker.session import WorkerSession
from sepnas.runtime.worker.status import MAX_INSPECTIONS, Inspections
from sepnas.spec.hosts import Hosts, format_address, parse_address

HANDSHAKE_S = 5.0
"""How long who connected may take to say who it is."""
HOLDER_ANSWER_S = 5.0
"""A client that is served and does not answer for so long loses its place when another one asks ..."""
MAX_IDLE_S = 600.0
"""... and so does one that had no request in all this time."""
MAX_WAITING = 4
"""Clients that wait for their place; others are told at once who has it."""
_BUSY_WAIT_S = 2.0
_REFUSAL_S, _LOOK_S = 1.0, 0.1
_STOP_WAIT_S = 5.0


class Worker:
    """Serves one device's shard at an address.

    Args:
        shard_dir: the device's folder of a deployment; every file is checked.
        host, port: where to listen; port 0 takes any free port (see :attr:`address`).
        threads: CPU threads for computing.
        insecure: plain TCP; on loopback addresses only.
        handshake_s: how long who connected may take to say who it is.
        engine: makes what runs the segments, from the shard and the number of threads.
        emulation: makes what the device is to behave like, from the shard.
        gauges: what it counts of itself.
        hosts: a hosts file that says where the peers are, whatever clients say.

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
        gauges: Gauges | None = None,
        hosts: str | os.PathLike[str] | None = None,
    ) -> None:
        if insecure:
            check_loopback(host)
        self.shard = load_shard(shard_dir)
        self._identity = None if insecure else _identity(self.shard)
        pinned = None if hosts is None else _pinned_hosts(hosts, self.shard)
        self._emulated = None if emulation is None else emulation(self.shard)
        self._handshake_s = handshake_s
        self._listener = listening_socket(host, port)
        self.address = format_address(host, self._listener.getsockname()[1])
        self._engine = engine(self.shard, threads)
        self.shard = self.shard.without_segments()
        _warm_up(self.shard, self._engine)
        self.gauges = gauges or Gauges()
        self.gauges.rank = self.shard.rank
        self.gauges.engine = self.gauges.engine or type(self._engine).__name__
        self._inspections = Inspections(self.gauges)
        self._log = WorkerLog(self.shard.rank)
        self._guard = PeerGuard(self.shard.rank, self._log, pinned)
        self._session: WorkerSession | None = None
        self._session_changed = threading.Condition()
        self._num_waiting = 0
        self._doorman = Doorman()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._stopping = threading.Event()

    def serve_forever(self) -> None:
        """Accept clients and peers until :meth:`stop`; then end the session and close the address."""
        self._log.say("started", listen=self.address, engine=self.gauges.engine, version=sepnas.__version__)
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
        """Each step, whatever becomes of those before it."""
        steps = (
            self._listener.close, self._inspections.close, self._stop_session, self._wake_receiver.close,
            self._wake_sender.close, self._log.close,
        )  # fmt: skip
        for step in steps:
            with survives("who ends the worker"):
                step()
        self._log.say("stopped", requests=self.gauges.served)
        with survives("who ends the worker"):
            self._log.flush()

    def _stop_session(self) -> None:
        with self._session_changed:
            if self._session is not None:
                self._session.stop("was stopped")
            self._session_changed.wait_for(lambda: self._session is None, _STOP_WAIT_S)

    def _accept(self) -> None:
        try:
            sock, origin = self._listener.accept()
        except OSError:
            time.sleep(0.05)  # it was gone before we came to it, or there are no descriptors left: no busy loop
            return
        self._doorman.enter(sock, origin[0])
        if not start_thread(self._meet, sock, *origin[:2]):
            self._doorman.leave(sock)
            self._say_refused("busy", format_address(*origin[:2]), "this machine has no thread left")
            time.sleep(0.05)

    def _meet(self, sock: socket.socket, host: str, port: int) -> None:
        with survives("who greets a connection"):
            try:
                self._greet(sock, host, port)
            except Exception:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                raise

    def _greet(self, sock: socket.socket, host: str, port: int) -> None:
        origin = format_address(host, port)
        deadline = time.monotonic() + self._handshake_s
        try:
            with self._doorman.greeting(sock, deadline):
                channel, hello = accept(sock, self._identity, origin, deadline)
        except (ExchangeError, OSError) as error:
            sock.close()
            self._say_refused("handshake", origin, str(error))
            return
        manifest = self.shard.manifest
        refusal = check_greeting(hello, manifest.deployment_id, manifest.num_devices, manifest.rank)
        if refusal:
            self._refuse(channel, *refusal, deadline)
        elif hello.purpose == STATUS:
            self._log.say("status", logging.DEBUG, origin=channel.peer)
            if not self._inspections.serve(channel, deadline):
                reason = f"{MAX_INSPECTIONS} clients ask device {manifest.rank} for its status already; try again later"
                self._refuse(channel, "busy", reason, deadline)
        elif hello.rank < 0:
            self._serve_client(channel, hello, deadline)
        else:
            self._attach_peer(channel, hello, deadline)

    def _refuse(self, channel: Channel, code: str, reason: str, deadline: float) -> None:
        self._say_refused(code, channel.peer, reason)
        refuse(channel, code, reason, deadline)

    def _say_refused(self, code: str, origin: str, reason: str) -> None:
        self._log.say_summed(f"refused {code}", "refused", origin=origin, code=code, reason=reason)

    def _serve_client(self, channel: Channel, hello: Hello, deadline: float) -> None:
        with self._session_changed:
            if self._session is not None and self._session.name == hello.session:
                self._session.stop("was dialed again by its client")  # whose connection was lost without our notice
            holder = self._await_place()
            if holder is None and not self._stopping.is_set():
                session = self._session = WorkerSession(
                    self.shard, self._engine, self._identity, channel, hello.session, self.gauges, self._log,
                    self._guard, self._emulated,
                )  # fmt: skip
        if holder is not None:
            reason = f"device {self.shard.rank} serves another client: {holder}; try again when that one is done"
            return self._refuse(channel, "busy", reason, max(deadline, time.monotonic() + _REFUSAL_S))
        if self._stopping.is_set():
            return channel.abort()
        try:
            session.serve()
        finally:
            with self._session_changed:
                self._session = None
                self._session_changed.notify_all()

    def _await_place(self) -> str | None:
        """Wait until no client is served, or say who is; one that does not answer or is idle for long loses its place.

        The lock of the session is held, and given away while it waits.
        """
        holder, asked = self._session, time.monotonic()
        if holder is None:
            return None
        if self._num_waiting >= MAX_WAITING:
            return holder.holder
        self._num_waiting += 1
        try:
            holder.ask_whether_there()
            # a client that has just left may still be on its way out
            self._wait_for_end_of(holder, _BUSY_WAIT_S)
            while self._session is holder and not holder.was_heard_since(asked):
                if time.monotonic() - asked >= HOLDER_ANSWER_S:
                    holder.stop(f"gave its place to another client: its own did not answer for {HOLDER_ANSWER_S:g} s")
                    self._wait_for_end_of(holder, _STOP_WAIT_S)
                    break
                self._session_changed.wait(_LOOK_S)
            if self._session is holder and holder.idle_s() >= MAX_IDLE_S:
                holder.stop(f"gave its place to another client: its own sent no request for {MAX_IDLE_S:g} s")
                self._wait_for_end_of(holder, _STOP_WAIT_S)
            return None if self._session is None else self._session.holder
        finally:
            self._num_waiting -= 1

    def _wait_for_end_of(self, holder: WorkerSession, timeout_s: float) -> None:
        self._session_changed.wait_for(lambda: self._session is not holder, timeout_s)

    def _attach_peer(self, channel: Channel, hello: Hello, deadline: float) -> None:
        session = self._session
        try:
            attached = session is not None and session.name == hello.session and session.attach(channel, hello.rank)
        except ExchangeError:
            channel.abort()
            return
        if not attached:
            self._refuse(channel, "session", f"device {self.shard.rank} is not in session '{hello.session}'", deadline)


def run_worker(
    shard_dir: str | os.PathLike[str],
    listen: str,
    *,
    threads: int = 1,
    insecure: bool = False,
    engine: str | None = None,
    emulation: Callable[[Shard], EmulatedDevice] | None = None,
    metrics: str | None = None,
    host_names: Sequence[str] = (),
    hosts: str | os.PathLike[str] | None = None,
) -> None:
    """Serve a device's folder at ``listen`` (``HOST:PORT``) until SIGINT or SIGTERM; prints one line when ready.

    ``engine`` is a registered engine's name, or auto: the fastest exact one, which is measured first; None is the first
    that can be used here. ``metrics`` is where Prometheus may read them (``HOST:PORT``), if anywhere, and
    ``host_names`` are names by which it may ask, besides this machine's addresses. ``hosts`` is a hosts file that says
    where the peers are, whatever clients say.
    """
    host, port = parse_address(listen, lowest_port=0)
    gauges, told = Gauges(), ""

    def make(shard: Shard, threads: int) -> Engine:
        nonlocal told
        chosen = make_engine(engine, shard, threads)
        told, gauges.engine = chosen.told, chosen.name
        return chosen.engine

    with _collector_paused():
        if metrics is not None:
            _serve_metrics(gauges, metrics, host_names)
        worker = Worker(
            shard_dir, host, port, threads=threads, insecure=insecure, engine=make, emulation=emulation, gauges=gauges,
            hosts=hosts,
        )  # fmt: skip

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    how = "plain TCP, INSECURE" if insecure else "TLS 1.3"
    shard = worker.shard
    announce(
        f"sepnas worker: device {shard.rank} of {shard.manifest.num_devices} listens on {worker.address} ({how}; "
        f"deployment {shard.manifest.deployment_id[:16]}; engine {told})"
    )
    worker.serve_forever()


def _serve_metrics(gauges: Gauges, address: str, host_names: Sequence[str]) -> None:
    from sepnas.runtime.worker.metrics import serve_metrics  # its library is loaded only when asked for

    host, port = parse_address(address)
    if not is_loopback(host):
        warnings.warn(f"metrics at {address}: no password and no TLS, whoever reaches it can read them", stacklevel=2)
    try:
        serve_metrics(gauges, host, port, host_names)
    except (OSError, OverflowError) as error:
        raise ListenError(f"cannot serve metrics at {address}: {_listen_hint(error, port, '--metrics')}") from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Load without garbage collection, and never look at what was loaded again.

    An engine makes hundreds of thousands of objects that stay: going through them costs a third of the start,
    pauses in the middle of requests, and a second at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _pinned_hosts(path: str | os.PathLike[str], shard: Shard) -> Hosts:
    hosts = Hosts.load(path)
    for rank in shard.manifest.peers:
        hosts.address(rank)
    return hosts


def _identity(shard: Shard) -> Identity:
    return LiveIdentity(shard.folder, "tls", shard.manifest.files, shard.rank, shard.manifest.deployment_id)


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; raises :class:`ListenError` with what may help, and warns of a name that only this
    machine reaches."""
    try:
        listener = listen(host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {format_address(host, port)}: {_listen_hint(error, port)}") from error
    number = listener.getsockname()[0]
    if is_loopback(number) and not is_loopback(host):
        text = f"host '{host}' is {number} here, which no other machine reaches; listen on 0.0.0.0, or on its number"
        warnings.warn(text, stacklevel=2)
    return listener


def _listen_hint(error: Exception, port: int, option: str = "--listen") -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, LookupTimeoutError):
        return "the name server did not answer; name the address as a number, or 0.0.0.0 for all"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "that name is not known here; use an address of this machine, or 0.0.0.0 for all"
    if number == errno.EADDRINUSE:
        return f"port {port} is in use; stop what listens there, or choose another port with {option}"
    if number == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; use one of its own, or 0.0.0.0 for all"
    if number == errno.EACCES:
        return "ports below 1024 belong to the system; choose a higher one"
    return f"{getattr(error, 'strerror', None) or error}; name an address of this machine"


def _warm_up(shard: Shard, engine: Engine) -> None:
    """Run each segment once: the first request is then as fast as the others, and what is broken shows here."""
    for segment, inputs in calls_of_a_pass(shard):
        engine.run(segment, inputs)
