"""The receiving side of a channel: bytes from the pipe become events, in whichever thread reads."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import TypeAlias

from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.protocol.connection import NEED_DATA, Connection, NeedData
from sepnas.runtime.protocol.events import Closed, Control, Data, Event
from sepnas.runtime.transport.counters import Traffic
from sepnas.runtime.transport.pipes import Pipe, set_timeout

_RECHECK_S = 1.0
"""Pause after which the reader's thread looks by itself, should nothing wake it."""

OnEvent: TypeAlias = Callable[[Control | Data], None]


class EventReader:
    """Reads a pipe, feeds the protocol and hands each complete event to ``deliver``, which must not wait.

    At first events are pulled by :meth:`next_event`. Later the reader's thread reads (:meth:`run`), and so does every
    thread that calls :meth:`read_available` if reading is shared (:meth:`share`); ``lock`` keeps their events in order.

    Args:
        pipe: the open connection.
        connection: the protocol's state; touched only under ``connection_lock``, which sending takes too.
        received: counts what has come.
    """

    def __init__(self, pipe: Pipe, connection: Connection, connection_lock: threading.Lock, received: Traffic) -> None:
        self.lock = threading.Lock()
        self.deliver: OnEvent = lambda event: None
        self._pipe, self._connection, self._connection_lock = pipe, connection, connection_lock
        self._received = received
        self._readable: select.epoll | None = None

    def next_event(self, deadline: float) -> Event:
        """The next event, read in the calling thread; raises ``OSError`` or an :class:`ExchangeError`."""
        while True:
            with self._connection_lock:
                event = self._connection.next_event()
            if event is not NEED_DATA:
                self._count(event)
                return event
            set_timeout(self._pipe.sock, deadline)
            data = self._pipe.read()
            with self._connection_lock:
                self._connection.receive_data(data)

    def share(self) -> None:
        """Let :meth:`run` wait beside other threads that call :meth:`read_available`; call it before :meth:`run`."""
        self._readable = select.epoll()
        self._readable.register(self._pipe.sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def run(self) -> None:
        """The thread: read until the peer has said Bye; raises whatever else ends the connection."""
        more = self._deliver_buffered()
        while more:
            if self._readable is None:
                more = self._read(wait=True)
            elif more := self.read_available():
                self._readable.poll(_RECHECK_S)

    def read_available(self) -> bool:
        """Read what has come, without waiting; False at a clean end. Raises whatever else ends the connection."""
        with self.lock:
            more = self._read(wait=False)
            while more and self._pipe.holds_more:
                more = self._read(wait=False)
            return more

    def close(self) -> None:
        """Give back the descriptor that watches the socket; nobody waits for it any more."""
        if self._readable is not None:
            self._readable.close()

    def _deliver_buffered(self) -> bool:
        """Deliver the events whose bytes came with earlier ones.

        Under ``lock``: another thread may read already, and its events are later ones.
        """
        with self.lock:
            with self._connection_lock:
                event = self._connection.next_event()
            return self._deliver_from(event)

    def _read(self, wait: bool) -> bool:
        """Read once and deliver the events that are complete; False at a clean end."""
        try:
            data = self._pipe.read(wait)
        except BlockingIOError:
            return True
        with self._connection_lock:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        return self._deliver_from(event)

    def _deliver_from(self, event: Event | NeedData) -> bool:
        while event is not NEED_DATA:
            if isinstance(event, Closed):
                if event.cleanly:
                    return False
                raise EOFError
            self._count(event)
            self.deliver(event)
            if self._connection.is_empty:
                return True
            with self._connection_lock:
                event = self._connection.next_event()
        return True

    def _count(self, event: Event) -> None:
        if isinstance(event, Data):
            self._received.add_message(len(event.payload), len(event.payload) + FRAME_HEADER_BYTES)
        self._received.control_bytes = self._connection.control_bytes_received
