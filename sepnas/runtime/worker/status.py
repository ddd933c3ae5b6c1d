"""Answers clients that ask for the status, beside the session that is served."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import sepnas
from sepnas.errors import ExchangeError
from sepnas.runtime.protocol.events import Inspect, Ping, Pong, SessionNow, Status, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.worker.stats import WorkerStats
from sepnas.runtime.worker.vitals import load_average, memory_bytes, temperature_c

MAX_INSPECTIONS = 4
"""Maximum number of clients that may ask for the status at once."""
IDLE_S = 10.0
"""A status connection is closed after this time without a question."""
_SEND_S = 5.0


class Inspections:
    """Open status connections; each is served in the thread that accepted it."""

    def __init__(self, stats: WorkerStats) -> None:
        self._stats = stats
        self._lock = threading.Lock()
        self._channels: list[Channel] = []
        self._closed = False

    def serve(self, channel: Channel, deadline: float) -> bool:
        """Answer until the client leaves or is idle; False, without a word to it, if too many are open."""
        with self._lock:
            room = not self._closed and len(self._channels) < MAX_INSPECTIONS
            if room:
                self._channels.append(channel)
        if not room:
            return False
        try:
            channel.send_now(Welcome(rank=self._stats.rank), deadline)
            self._answer(channel)
        except ExchangeError:
            pass  # it is gone, or idle
        finally:
            with self._lock:
                self._channels.remove(channel)
            channel.abort()
        return True

    def close(self) -> None:
        """Close all of them, and admit no more."""
        with self._lock:
            self._closed = True
            for channel in self._channels:
                with contextlib.suppress(OSError):  # its own thread closes it
                    channel.pipe.sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, channel: Channel) -> None:
        while True:
            event = channel.next_event(time.monotonic() + IDLE_S)
            if isinstance(event, Ping):
                pong = Pong(sent_ns=event.sent_ns, clock_ns=time.monotonic_ns())
                channel.send_now(pong, time.monotonic() + _SEND_S)
            elif isinstance(event, Inspect):
                channel.send_now(status_of(self._stats), time.monotonic() + _SEND_S)
            else:
                return


def status_of(stats: WorkerStats) -> Status:
    """The device's state now."""
    session = stats.session
    now = None
    if session is not None:
        now = SessionNow(name=session.short_name, open_s=max(0.0, time.monotonic() - session.since))
    return Status(
        rank=stats.rank,
        version=sepnas.__version__,
        engine=stats.engine,
        uptime_s=stats.uptime_s,
        served=stats.served,
        failed=dict(stats.failed),
        missed=stats.missed,
        session=now,
        temperature_c=temperature_c(),
        load=load_average(),
        memory_bytes=memory_bytes(),
    )
