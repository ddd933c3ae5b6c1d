"""Dialing the devices of a session: the target, the greeting, and the setup that each device is sent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from sepnas.deployment.manifest import OnMissing
from sepnas.errors import ExchangeError, HandshakeError, PeerUnreachableError, again
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.parallel import for_each_rank
from sepnas.runtime.protocol.connection import SampleBytes
from sepnas.runtime.protocol.events import Event, Hello, Ping, Pong, Ready, Setup
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.delivery import LinkTimings
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.spec.hosts import Hosts

_DIAL_SHARE = 0.8
"""Share of the time for opening that a session that degrades spends on dialing."""


@dataclass(frozen=True)
class SessionTarget:
    """The devices of a session and the terms on which it connects to them.

    Attributes:
        deployment_id: the deployment that every device must run.
        expected: for each rank that takes part, the messages that it sends to the client: bytes per sample, by tag.
        plans: the digest of each plan that requests may name; see :class:`Setup`.
        hosts: the devices' addresses.
        identity: the client's certificate; None for plain TCP.
        on_missing: ``degrade``: the session goes on without devices that are lost, or not reachable at the start.
        links: the client's links in an emulated cluster.
        reconnect: whether the connections are opened again after their end; errors say so.
    """

    deployment_id: str
    expected: Mapping[int, SampleBytes]
    hosts: Hosts
    identity: Identity | None
    on_missing: OnMissing = "strict"
    links: LinkTimings | None = None
    reconnect: bool = False
    plans: Mapping[str, str] = field(default_factory=dict)


class Dialer:
    """Dials the devices of one session, all under the same random session name."""

    def __init__(self, target: SessionTarget) -> None:
        self._target, self.hosts = target, target.hosts
        self._hello = Hello(deployment_id=target.deployment_id, rank=CLIENT, session=secrets.token_hex(8))

    def dial(self, rank: int, deadline: float) -> Channel:
        """A channel to a device that has welcomed the client; raises :class:`ExchangeError`."""
        address, expected = self.hosts.address(rank), self._target.expected[rank]
        return dial(rank, address, self._hello, self._target.identity, expected, deadline)

    def dial_all(self, channels: dict[int, Channel], lost: dict[int, ExchangeError], deadline: float) -> None:
        """Dial every device: fills ``channels``, and ``lost`` where the session can do without a device.

        Raises :class:`ExchangeError` if the session cannot begin with the devices that were reached. ``channels`` then
        holds those that are open.
        """
        ranks = sorted(self._target.expected)
        if self._target.on_missing == "strict":
            for rank in ranks:
                channels[rank] = self.dial(rank, deadline)
            return
        limit = time.monotonic() + _DIAL_SHARE * (deadline - time.monotonic())
        for_each_rank(ranks, lambda rank: self._try_dial(rank, channels, lost, limit))
        self._check_reached(lost)

    def dial_again(self, rank: int, peers: Callable[[], Collection[int]], deadline: float) -> Channel | None:
        """A channel to a device that has joined the running session; None if that failed.

        ``peers`` is called after the dialing: the ranks that are in the session then.
        """
        channel = None
        try:
            channel = self.dial(rank, deadline)
            channel.send_now(self.setup(peers(), deadline, rejoin=True), deadline)
            if isinstance(_next_but_pings(channel, deadline), Ready):
                return channel
        except ExchangeError:
            pass
        except Exception:
            if channel is not None:
                channel.abort()
            raise
        if channel is not None:
            channel.abort()
        return None

    def setup(self, peers: Collection[int], deadline: float, rejoin: bool = False) -> Setup:
        """The addresses of ``peers``, and the time that a device has to connect to them."""
        left_ms = max(1, int((deadline - time.monotonic()) * 1e3))
        addresses = {str(rank): self.hosts.address(rank) for rank in peers}
        return Setup(
            peers=addresses,
            deadline_ms=left_ms,
            on_missing=self._target.on_missing,
            rejoin=rejoin,
            plans=dict(self._target.plans),
        )

    def _try_dial(
        self, rank: int, channels: dict[int, Channel], lost: dict[int, ExchangeError], deadline: float
    ) -> None:
        try:
            channels[rank] = self.dial(rank, deadline)
        except ExchangeError as error:
            lost[rank] = error
        except Exception as error:  # in this thread nobody else would report it
            lost[rank] = PeerUnreachableError(f"device {rank}: cannot be dialed: {error}")

    def _check_reached(self, lost: Mapping[int, ExchangeError]) -> None:
        """Raise if a device refused the client, or if no device that can answer was reached."""
        for _, error in sorted(lost.items()):
            if isinstance(error, HandshakeError):
                raise again(error)
        heads = {rank for rank, messages in self._target.expected.items() if messages}
        if heads <= lost.keys():
            raise again(lost[min(heads)])


def _next_but_pings(channel: Channel, deadline: float) -> Event:
    """The next event of a channel whose threads do not run yet; pings are answered."""
    while isinstance(event := channel.next_event(deadline), Ping):
        channel.send_now(Pong(sent_ns=event.sent_ns, clock_ns=time.monotonic_ns()), deadline)
    return event
