"""Processes that are killed and frozen, and strangers that knock."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial

from asking import HANGS_S, TIMEOUT_S, Asking, Case, inject, is_complete
from devices import Devices
from network import Deployed

from sepnas.errors import DeadlineError, HandshakeError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.session import Session
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.protocol.events import PROTOCOL_VERSION, Hello
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker.server import HANDSHAKE_S
from sepnas.spec.hosts import parse_address


def killed_and_restarted(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGKILL, or SIGTERM, in a session that degrades; then the device is started again and must come back."""
    for name, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGTERM)):
        case = Case(f"{name}, degrade, restarted")
        with Session(deployed.folder, devices.hosts, on_missing="degrade") as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            for rank in case.turns(times, deployed.num_devices):
                case.detected_s.append(inject(asking, draw, partial(devices.signal, rank, number)))
                devices.reap(rank)
                asking.until(lambda outcome: outcome is False)
                started = time.monotonic()
                ready = devices.start(rank)
                ended, _ = asking.until(is_complete)
                case.full_service_s.append(ended - started)
                case.rejoin_s.append(ended - ready)
        yield case


def killed_strict(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGKILL in a strict session: an error that names the device; a new session after the restart."""
    case = Case("killed, strict")
    for rank in case.turns(times, deployed.num_devices):
        with Session(deployed.folder, devices.hosts, on_missing="strict") as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            case.detected_s.append(inject(asking, draw, lambda rank=rank: devices.signal(rank, signal.SIGKILL)))
        devices.reap(rank)
        devices.start(rank)
    yield case


def frozen(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGSTOP, and SIGCONT after it was noticed; the same session goes on, strict and degraded."""
    for on_missing in ("strict", "degrade"):
        case = Case(f"frozen, {on_missing}")
        with Session(deployed.folder, devices.hosts, on_missing=on_missing) as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            for rank in case.turns(times, deployed.num_devices):
                case.detected_s.append(inject(asking, draw, lambda rank=rank: devices.signal(rank, signal.SIGSTOP)))
                devices.signal(rank, signal.SIGCONT)
                thawed = time.monotonic()
                ended, _ = asking.until(is_complete)
                case.full_service_s.append(ended - thawed)
        yield case


def strangers(devices: Devices, deployed: Deployed, times: int, other: Deployed) -> Iterator[Case]:
    """Who does not belong to the deployment knocks while a session is at work."""
    own = Identity(deployed.folder / "client/tls", CLIENT, deployed.deployment_id)
    foreign = Identity(other.folder / "client/tls", CLIENT, other.deployment_id)
    good = Hello(deployment_id=deployed.deployment_id, rank=CLIENT, session="stranger")
    knocks = {
        "foreign certificate": (foreign, good),
        "other version": (own, good.model_copy(update={"protocol": PROTOCOL_VERSION + 1})),
        "other deployment": (own, good.model_copy(update={"deployment_id": other.deployment_id})),
        "another device's rank": (own, good.model_copy(update={"rank": 1})),
    }
    with Session(deployed.folder, devices.hosts, on_missing="strict") as session:
        for name, (identity, hello) in knocks.items():
            case = Case(name)
            asking = Asking(session, deployed, case)
            for rank in case.turns(times, deployed.num_devices):
                start = time.monotonic()
                try:
                    dial(rank, devices.hosts.address(rank), hello, identity, {}, start + TIMEOUT_S).abort()
                    case.wrong += 1
                except HandshakeError:
                    case.typed_errors += 1
                except DeadlineError:
                    case.hung += 1
                case.detected_s.append(time.monotonic() - start)
                asking.ask()
            yield case


def slow_clients(devices: Devices, deployed: Deployed, times: int) -> Iterator[Case]:
    """Strangers that send a byte now and then, all at once, while a session is at work; and clients of the deployment
    that greet as slowly after their TLS handshake. They are closed, and the session is not held up."""
    identity = Identity(deployed.folder / "client/tls", CLIENT, deployed.deployment_id)
    hello = Hello(deployment_id=deployed.deployment_id, rank=CLIENT, session="slow")
    greeting = b"".join(Connection(Side.DIALER).send(hello))
    for name, context, words in (
        ("slow stranger", None, b"\x16\x03\x01\x3f\xff" + bytes(1000)),  # what a TLS handshake begins with
        ("slow client", identity.client, greeting),
    ):
        case = Case(name)
        with Session(deployed.folder, devices.hosts, on_missing="strict") as session:
            asking = Asking(session, deployed, case)
            running = []
            for rank in case.turns(times, deployed.num_devices):
                address = parse_address(devices.hosts.address(rank))
                dawdle = partial(_dawdle, address, context, identity.name(rank), words, case)
                running.append(threading.Thread(target=dawdle))
                running[-1].start()
            while any(thread.is_alive() for thread in running):
                asking.ask()
        case.hung += times - len(case.detected_s)
        yield case


def _dawdle(
    address: tuple[str, int], context: ssl.SSLContext | None, server_name: str, words: bytes, case: Case
) -> None:
    """Send a byte every tenth of a second until the other end has enough."""
    start = time.monotonic()
    with socket.create_connection(address) as plain, contextlib.suppress(OSError):
        sock = plain if context is None else context.wrap_socket(plain, server_hostname=server_name)
        sock.settimeout(0.1)
        for byte in words:
            if time.monotonic() > start + HANDSHAKE_S + HANGS_S:
                return
            sock.send(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                if not sock.recv(1):
                    break
    case.detected_s.append(time.monotonic() - start)
    case.typed_errors += 1
