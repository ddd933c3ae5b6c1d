"""Opening connections: dialing, accepting, TLS, and the greeting in which both ends check each other."""

from __future__ import annotations

import ipaddress
import socket
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

from sepnas.errors import (
    DeadlineError,
    ExchangeError,
    HandshakeError,
    PeerLostError,
    PeerUnreachableError,
    RemoteProtocolError,
    SpecError,
)
from sepnas.options import option
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.connection import Connection, SampleBytes, Side
from sepnas.runtime.protocol.events import PROTOCOL_VERSION, SESSION, STATUS, Event, Hello, Refused, Welcome
from sepnas.runtime.protocol.names import rank_name
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.identity import Identity, names_in
from sepnas.runtime.transport.lookup import LookupTimeoutError
from sepnas.runtime.transport.pipes import Pipe, PlainPipe, TlsPipe
from sepnas.runtime.transport.sockets import connect, tune
from sepnas.spec.hosts import parse_address


class Dial(NamedTuple):
    """One attempt: address, deadline (``time.monotonic`` seconds), and which numeric addresses are allowed."""

    address: str
    deadline: float
    allows: Callable[[str], bool]


Opening: TypeAlias = AbstractContextManager[Dial]

_HOSTNAME_MISMATCH = 62
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH."""
_MIXED_HINT = "is it another program, or is one end started with --insecure and the other without?"


def dial(
    rank: int,
    address: str,
    hello: Hello,
    identity: Identity | None,
    sample_bytes: SampleBytes,
    deadline: float,
    opening: Opening | None = None,
) -> Channel:
    """Connect to device ``rank`` and greet it; without ``identity`` in plain TCP.

    ``opening`` restricts where a worker may dial; it is entered until the device has proved its identity.

    Returns a channel that has been welcomed and not started. Raises :class:`PeerUnreachableError`,
    :class:`HandshakeError` (foreign or expired certificate, refused), :class:`DeadlineError`, or :class:`SpecError`
    (plain TCP to another machine).
    """
    peer = f"{rank_name(rank)} at {address}"
    with opening or nullcontext(Dial(address, deadline, lambda number: True)) as dialed:
        pipe = _open(rank, dialed, identity)
    sock = pipe.sock
    try:
        channel = Channel(pipe, Connection(Side.DIALER, sample_bytes), peer)
        channel.send_now(hello, deadline)
        _check_welcome(_greeting(channel, deadline), rank, peer)
    except BaseException:
        sock.close()
        raise
    return channel


def _open(rank: int, dialed: Dial, identity: Identity | None) -> Pipe:
    if identity is None:
        check_loopback(parse_address(dialed.address)[0])
    sock = _connect(rank, dialed)
    try:
        return PlainPipe(sock) if identity is None else _secure(sock, identity, rank, dialed.address, dialed.deadline)
    except BaseException:
        sock.close()
        raise


def _connect(rank: int, dialed: Dial) -> socket.socket:
    address = dialed.address
    host, port = parse_address(address)
    hint = f"is it running? start it there with: sepnas worker DEPLOYMENT/device{rank} --listen HOST:{port}"
    try:
        return connect(host, port, dialed.deadline, dialed.allows)
    except LookupTimeoutError:
        raise PeerUnreachableError(
            f"device {rank}: the name server did not say in time where host '{host}' is; is this machine connected? "
            "A number in hosts.yaml needs no name server"
        ) from None
    except TimeoutError:
        raise PeerUnreachableError(f"device {rank}: no answer from {address} in time; {hint}") from None
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no name of a host"
        raise PeerUnreachableError(
            f"device {rank}: host '{host}' is not known ({why}); correct `devices` in hosts.yaml"
        ) from None
    except OSError as error:
        number = "" if error.filename in (None, host) else f"{error.filename}: "
        raise PeerUnreachableError(
            f"device {rank}: nobody answers at {address} ({number}{error.strerror}); {hint}"
        ) from None


def _secure(sock: socket.socket, identity: Identity, rank: int, address: str, deadline: float) -> TlsPipe:
    peer = f"{rank_name(rank)} at {address}"
    pipe = TlsPipe(sock, identity.client, identity.name(rank))
    try:
        pipe.handshake(deadline)
    except HandshakeError as error:
        if getattr(error.__cause__, "verify_code", None) == _HOSTNAME_MISMATCH:
            raise HandshakeError(
                f"another device answers at {address} (its certificate is not device {rank}'s); "
                "correct its address in hosts.yaml"
            ) from error
        raise HandshakeError(f"{peer}: no TLS connection: {error}") from error
    except (TimeoutError, DeadlineError):
        raise DeadlineError(f"{peer} did not finish the TLS handshake in time; is it frozen?") from None
    except OSError as error:
        raise HandshakeError(f"{peer}: closed the connection during the TLS handshake ({error.strerror})") from error
    return pipe


def _greeting(channel: Channel, deadline: float) -> Event:
    """The answer to our Hello. In TLS 1.3 this is also where we learn that our certificate was refused."""
    try:
        return channel.next_event(deadline)
    except HandshakeError as error:
        raise HandshakeError(f"{channel.peer}: refuses our certificate: {error}") from error
    except (RemoteProtocolError, PeerLostError) as error:
        raise HandshakeError(
            f"{channel.peer}: no sepnas worker answers as expected ({error}); {_MIXED_HINT}"
        ) from error


def _check_welcome(event: Event, rank: int, peer: str) -> None:
    if isinstance(event, Refused):
        raise HandshakeError(f"{peer}: refused ({event.code}): {event.reason}")
    if not isinstance(event, Welcome):
        raise HandshakeError(f"{peer}: closed the connection instead of answering our greeting; {_MIXED_HINT}")
    if event.rank != rank:
        raise HandshakeError(f"{peer}: is device {event.rank}; correct its address in hosts.yaml")


def accept(sock: socket.socket, identity: Identity | None, origin: str, deadline: float) -> tuple[Channel, Hello]:
    """Shake hands on an accepted connection; its certificate must carry the name of the rank that it claims.

    Returns the channel, not yet answered, and the Hello. If that fails, closes the socket and raises an
    :class:`ExchangeError` or ``OSError``.
    """
    tune(sock)
    try:
        pipe: Pipe = PlainPipe(sock)
        if identity is not None:
            pipe = TlsPipe(sock, identity.server, None)
            pipe.handshake(deadline)
        channel = Channel(pipe, Connection(Side.LISTENER), origin)
        hello = channel.next_event(deadline)
        if not isinstance(hello, Hello):
            raise PeerLostError(f"{origin} left without a word")
        if identity is not None and identity.name(hello.rank) not in names_in(pipe.certificate()):
            refuse(channel, "certificate", f"the certificate is not that of {rank_name(hello.rank)}", deadline)
            raise HandshakeError(f"{origin} says it is {rank_name(hello.rank)} with another certificate")
    except BaseException:
        sock.close()
        raise
    channel.peer = f"{rank_name(hello.rank)} ({origin})"
    return channel, hello


def refuse(channel: Channel, code: str, reason: str, deadline: float) -> None:
    """Tell the dialer why it is refused, and close."""
    try:
        channel.send_now(Refused.model_validate({"code": code, "reason": reason}), deadline)
        channel.pipe.sock.shutdown(socket.SHUT_WR)
        channel.next_event(deadline)  # until the dialer has read the refusal and closed
    except (ExchangeError, OSError):
        pass
    finally:
        channel.abort()


def check_greeting(hello: Hello, deployment_id: str, num_devices: int, rank: int) -> tuple[str, str] | None:
    """The code and the reason with which device ``rank`` refuses this Hello; None if it accepts it."""
    if hello.protocol != PROTOCOL_VERSION:
        return "version", (
            f"speaks protocol version {hello.protocol}, device {rank} speaks {PROTOCOL_VERSION}; "
            "install the same sepnas on both"
        )
    if hello.deployment_id != deployment_id:
        return "deployment", (
            f"belongs to deployment {hello.deployment_id[:16]}, device {rank} runs {deployment_id[:16]}; "
            "copy the same deployment to all machines"
        )
    if not -1 <= hello.rank < num_devices or hello.rank == rank:
        return "rank", f"says it is rank {hello.rank}; device {rank} of {num_devices} devices does not know it"
    if hello.purpose not in ((SESSION, STATUS) if hello.rank == CLIENT else (SESSION,)):
        return "purpose", f"comes for {hello.purpose!r}; allowed are {SESSION}, and {STATUS} for the client"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_loopback(host: str) -> None:
    """Raise :class:`SpecError` unless plain TCP to ``host`` stays on this machine."""
    if not is_loopback(host):
        raise SpecError(
            f"plain TCP is allowed on 127.0.0.1 and [::1] only, got {host}; use TLS, without "
            + option("--insecure", "insecure=True")
        )


def warn_of_loopback(addresses: Mapping[int, str]) -> None:
    """Warn if only some devices have loopback addresses.

    Devices dial each other at the addresses that the client uses: a loopback address leads each one to itself.
    """
    own = [rank for rank, address in addresses.items() if is_loopback(parse_address(address)[0])]
    if own and len(own) < len(addresses):
        text = (
            f"device {own[0]}'s address {addresses[own[0]]} is reached from its own machine only, and others "
            "dial it from elsewhere; write its address in the network into hosts.yaml"
        )
        warnings.warn(text, stacklevel=3)
