"""A connection of the runtime with both ends in this process."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from types import TracebackType

from typing_extensions import Self

from sepnas.deployment.manifest import certificate_name
from sepnas.errors import ExchangeError, PeerLostError
from sepnas.measure.rounds import PAUSE_S, after_pause, timed_once
from sepnas.runtime.protocol.events import Control, Data, Hello, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import accept, dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.polling import close_condition, new_condition
from sepnas.spec.hosts import format_address

TAG, SAMPLE_BYTES = 1, 64
MESSAGES = 20
"""Number of messages sent one by one per measurement: a process's clock is coarse."""
TIMEOUT_S = 20.0
_DEPLOYMENT_ID = "0" * 64


class Ends:
    """Both ends of a connection. Device 0 sends; device 1 receives, in the thread that waits for it, as in a worker."""

    def __init__(self, sender: Channel, receiver: Channel) -> None:
        self._sender, self._receiver = sender, receiver
        self._changed, self._error = new_condition(), "it did not arrive in time"
        self._receiver.connection.expect({TAG: SAMPLE_BYTES})
        self._receiver.start(self._on_event, self._on_end, self._changed)
        self._sender.start(self._on_event, self._on_end)
        self._number = self._num_came = 0

    def close(self) -> None:
        for channel in (self._sender, self._receiver):
            channel.abort()
        close_condition(self._changed)

    def processor_s(self, payload: bytes) -> float:
        """Processor seconds of all threads for sending and receiving a message: the mean of several, with a pause
        before each. Raises :class:`PeerLostError`."""
        start = time.process_time()
        for _ in range(MESSAGES):
            time.sleep(PAUSE_S)
        between = time.process_time()
        for _ in range(MESSAGES):
            time.sleep(PAUSE_S)
            self._send(payload)
            self._await(payload)
        return max(0.0, time.process_time() - between - (between - start)) / MESSAGES

    def lost_s(self, payload: bytes, compute: Callable[[], object]) -> float:
        """Seconds that a message, both ends of it, takes from a thread that computes between two pauses.

        More than the processor seconds of its threads if these share a core with it; Python's lock counts in any case.
        Raises :class:`PeerLostError`.
        """

        def exchange() -> None:
            self._send(payload)
            compute()
            self._await(payload)

        return max(0.0, _after_pauses_s(exchange) - _after_pauses_s(compute))

    def _send(self, payload: bytes) -> None:
        self._number += 1
        self._sender.send(Data(self._number, TAG, payload))

    def _await(self, payload: bytes) -> None:
        limit = time.monotonic() + TIMEOUT_S
        with self._changed:
            while self._num_came < self._number and (left_s := limit - time.monotonic()) > 0:
                self._changed.wait(left_s)
        if self._num_came < self._number:
            raise PeerLostError(f"a message of {len(payload)} bytes to this machine itself was lost: {self._error}")

    def _on_event(self, event: Control | Data) -> None:
        with self._changed:
            self._num_came += 1
            self._changed.notify_all()

    def _on_end(self, error: ExchangeError | None) -> None:
        self._error = str(error or "the connection was closed")


def _after_pauses_s(run: Callable[[], object]) -> float:
    """The mean of several runs, each after a pause."""
    visit = after_pause(timed_once(run))
    return fmean(visit()[0] for _ in range(MESSAGES))


class Loopback:
    """A connection over 127.0.0.1, with TLS if certificates can be made; use it as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.ends: Ends
        self.with_tls = False

    def __enter__(self) -> Self:
        with self._stack:
            identities = self._identities()
            self.with_tls = identities[0] is not None
            listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.ends = Ends(*self._connect(listener, *identities))
            self._stack.callback(self.ends.close)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _connect(
        self, listener: socket.socket, sender: Identity | None, receiver: Identity | None
    ) -> tuple[Channel, Channel]:
        deadline = time.monotonic() + TIMEOUT_S
        listener.settimeout(TIMEOUT_S)
        accepted: list[Channel] = []

        def welcome() -> None:
            channel, _ = accept(listener.accept()[0], receiver, "the other end", deadline)
            accepted.append(channel)
            channel.send_now(Welcome(rank=1), deadline)

        thread = threading.Thread(target=welcome, daemon=True)
        thread.start()
        address, hello = (
            format_address(*listener.getsockname()),
            Hello(deployment_id=_DEPLOYMENT_ID, rank=0, session="profile"),
        )
        channel = dial(1, address, hello, sender, {}, deadline)
        self._stack.callback(channel.abort)
        thread.join()
        self._stack.callback(accepted[0].abort)
        return channel, accepted[0]

    def _identities(self) -> tuple[Identity | None, Identity | None]:
        """Identities for two devices, from an authority that lives as long as this object; None without the package."""
        try:
            from sepnas.deploy.certificates import issue, make_authority
        except ImportError:
            return None, None
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sepnas-profile-")))
        authority, found = make_authority(_DEPLOYMENT_ID, 1), []
        for rank in range(2):
            own = folder / str(rank)
            own.mkdir(mode=0o700)
            credential = issue(authority, certificate_name(rank, _DEPLOYMENT_ID), 1)
            (own / "ca.pem").write_bytes(authority.certificate_pem())
            (own / "cert.pem").write_bytes(credential.certificate_pem())
            (own / "key.pem").write_bytes(credential.key_pem())
            found.append(Identity(own, rank, _DEPLOYMENT_ID))
        return found[0], found[1]
