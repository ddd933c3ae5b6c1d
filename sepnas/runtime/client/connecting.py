"""Opening the connections of a session: dial all devices, and let them connect to each other."""

from __future__ import annotations

import contextlib
import queue
import time

from sepnas.errors import ExchangeError
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.dialing import SessionTarget
from sepnas.runtime.client.failures import GATHER_S
from sepnas.runtime.protocol.events import Failed, Ready


def open_connections(target: SessionTarget, deadline: float) -> DeviceConnections:
    """Connections to all devices of ``target``, ready for requests.

    ``deadline`` is in ``time.monotonic`` seconds. Raises :class:`ExchangeError`; nothing stays open then.
    """
    connections = DeviceConnections(target)
    try:
        connections.dialer.dial_all(connections.channels, connections.liveness.lost, deadline)
        _set_up(connections, deadline)
        connections.begin_serving()
    except BaseException:
        connections.close()
        raise
    return connections


def _set_up(connections: DeviceConnections, deadline: float) -> None:
    """Tell each device where the others listen, and wait until all of them are connected."""
    setup = connections.dialer.setup(connections.liveness.present_ranks, deadline)
    for rank, channel in connections.channels.items():
        channel.send_now(setup, deadline)
        connections.start(rank, channel)
    waiting = set(connections.channels)
    while waiting:
        rank, event = connections.receive(deadline + GATHER_S, "connecting to their peers", waiting)
        if isinstance(event, Failed):
            raise _explain(connections, event)
        if isinstance(event, Ready):
            waiting.discard(rank)


def _explain(connections: DeviceConnections, first: Failed) -> ExchangeError:
    """The error that a failed setup means; other devices may report the cause a moment later."""
    reports, limit = [first], time.monotonic() + GATHER_S
    lost: ExchangeError | None = None
    while (left_s := limit - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            _, event = connections.control.get(left_s)
            if isinstance(event, Failed):
                reports.append(event)
            elif isinstance(event, ExchangeError):
                lost = lost or event
    return connections.explain(reports, lost)
