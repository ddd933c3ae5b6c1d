"""Asking the devices of a deployment for their status, independently of any session."""

from __future__ import annotations

import contextlib
import os
import queue
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from typing_extensions import Self

from sepnas.deployment.verify import verify_client
from sepnas.errors import DeadlineError, ExchangeError, HandshakeError, PeerLostError, RemoteProtocolError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import STATUS, Bye, Hello, Inspect, Ping, Pong, Status
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import check_loopback, dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.live_identity import client_identity
from sepnas.runtime.unexpected import start_thread
from sepnas.spec.hosts import Hosts, parse_address

ANSWER_S = 2.0
"""Time that a device has to answer."""
IDLE = "nothing that it computes reaches the answer: its worker need not run"
_GRACE_S = 0.2
"""A thread that waits for a device may notice its deadline this much later."""

State: TypeAlias = Literal["ready", "serving", "refused", "does not answer", "not reachable", "not needed"]


@dataclass(frozen=True)
class DeviceStatus:
    """A device's status, or the reason (``why``) that there is none; ``certificate_end``: its certificate's expiry."""

    rank: int
    address: str
    state: State
    why: str = ""
    round_trip_s: float | None = None
    certificate_end: datetime | None = None
    status: Status | None = None

    @property
    def is_there(self) -> bool:
        """Whether the device answered, or is not needed."""
        return self.status is not None or self.state == "not needed"


class Inspector:
    """Status connections to the devices of a deployment; use it as a context manager.

    Args:
        deployment: the deployment's folder (its manifest and ``client/`` are enough).
        devices: a hosts file, or None for the deployment's own.
        insecure: plain TCP; on loopback addresses only.

    Raises :class:`SpecError` and :class:`DeploymentError` as a session does; problems of a device are in its row.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        insecure: bool = False,
    ) -> None:
        folder = Path(deployment)
        manifest = verify_client(folder, uses_hosts=devices is None)
        hosts = devices if isinstance(devices, Hosts) else Hosts.load(devices or folder / "hosts.yaml")
        addresses = {rank: hosts.address(rank) for rank in manifest.working}
        if insecure:
            for address in addresses.values():
                check_loopback(parse_address(address)[0])
        identity = None if insecure else client_identity(folder, manifest)
        hello = Hello(deployment_id=manifest.deployment_id, rank=CLIENT, session="", purpose=STATUS)
        ranks = [rank for rank in range(manifest.num_devices) if rank not in addresses]
        self._idle = [DeviceStatus(rank, hosts.address(rank), "not needed", IDLE) for rank in ranks]
        self._visits = [_Visit(rank, address, hello, identity) for rank, address in sorted(addresses.items())]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for visit in self._visits:
            visit.close()

    def look(self, answer_s: float = ANSWER_S) -> list[DeviceStatus]:
        """The status of all devices, by rank; those that are not needed are not asked. Takes at most ``answer_s``."""
        deadline = time.monotonic() + answer_s
        found: queue.SimpleQueue[DeviceStatus] = queue.SimpleQueue()
        for visit in self._visits:
            visit.begin(deadline, found)
        rows: dict[int, DeviceStatus] = {}
        while len(rows) < len(self._visits):
            try:
                row = found.get(timeout=max(0.0, deadline + _GRACE_S - time.monotonic()))
            except queue.Empty:
                break
            rows[row.rank] = row
        asked = [rows.get(visit.rank) or visit.silent(answer_s) for visit in self._visits]
        return sorted([*asked, *self._idle], key=lambda row: row.rank)


class _Visit:
    """The status connection to one device, dialed again after it was lost."""

    def __init__(self, rank: int, address: str, hello: Hello, identity: Identity | None) -> None:
        self.rank, self._address, self._hello, self._identity = rank, address, hello, identity
        self._channel: Channel | None = None
        self._at_work = threading.Lock()

    def begin(self, deadline: float, found: queue.SimpleQueue[DeviceStatus]) -> None:
        """Ask in a thread, unless an earlier one still runs: looking up a host name may outlast all deadlines."""
        if self._at_work.acquire(blocking=False) and not start_thread(self._run, deadline, found):
            self._at_work.release()

    def silent(self, answer_s: float) -> DeviceStatus:
        why = f"device {self.rank} at {self._address}: no answer within {answer_s:g} s"
        return DeviceStatus(self.rank, self._address, "does not answer", why)

    def close(self) -> None:
        """Leave, unless the device is being asked: then the end of the process closes the connection."""
        if self._at_work.acquire(blocking=False):
            if self._channel is not None:
                with contextlib.suppress(ExchangeError):
                    self._channel.send_now(Bye(), time.monotonic() + 0.1)
                self._drop()
            self._at_work.release()

    def _run(self, deadline: float, found: queue.SimpleQueue[DeviceStatus]) -> None:
        try:
            row = self._ask(deadline)
        except ExchangeError as error:
            self._drop()
            row = DeviceStatus(self.rank, self._address, _state_of(error), str(error))
        finally:
            self._at_work.release()
        found.put(row)

    def _ask(self, deadline: float) -> DeviceStatus:
        if self._channel is not None:
            try:
                return self._question(self._channel, deadline)
            except (PeerLostError, RemoteProtocolError):
                self._drop()  # the device was started again, or closed an idle connection
        self._channel = dial(self.rank, self._address, self._hello, self._identity, {}, deadline)
        return self._question(self._channel, deadline)

    def _question(self, channel: Channel, deadline: float) -> DeviceStatus:
        ping = Ping(sent_ns=time.monotonic_ns())
        channel.send_now(ping, deadline)
        pong = channel.next_event(deadline)
        took_ns = time.monotonic_ns() - ping.sent_ns
        if isinstance(pong, Pong):
            channel.send_now(Inspect(), deadline)
            status = channel.next_event(deadline)
            if isinstance(status, Status):
                state: State = "serving" if status.session else "ready"
                end = _end_of(channel.pipe.certificate())
                return DeviceStatus(self.rank, self._address, state, "", took_ns / 1e9, end, status)
        raise RemoteProtocolError(f"{channel.peer} ended the connection")

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.abort()
            self._channel = None


def _state_of(error: ExchangeError) -> State:
    if isinstance(error, DeadlineError):
        return "does not answer"
    return "refused" if isinstance(error, HandshakeError) else "not reachable"


def _end_of(certificate: dict[str, object] | None) -> datetime | None:
    end = (certificate or {}).get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(end), timezone.utc) if isinstance(end, str) else None
