"""One connection at work: a socket, the protocol, a thread that reads and a thread that writes.

Waking a thread costs more than a small message does. So who sends writes itself what is small and can be taken at once,
and who waits may read itself (:mod:`sepnas.runtime.transport.polling`); the threads do the rest, while others compute.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from sepnas.errors import DeadlineError, ExchangeError, LocalProtocolError, PeerLostError
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.memory import max_kept_bytes
from sepnas.runtime.protocol.connection import NEED_DATA, Connection
from sepnas.runtime.protocol.events import Bye, Closed, Control, Data, Event
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.counters import Traffic
from sepnas.runtime.transport.delivery import Way
from sepnas.runtime.transport.pipes import CAN_DO_WITHOUT_WAITING, Pipe, set_timeout
from sepnas.runtime.transport.polling import Changed, PullingCondition
from sepnas.runtime.unexpected import say_once, survives

_WRITTEN_AT_ONCE_BYTES = 32 << 10
"""Longer ones the writer encrypts, while the sender computes."""
MAX_UNWRITTEN_FRAMES = 1 << 16
"""A peer for which so many frames wait does not read: it is lost."""
_LOOK_AGAIN_S = 1.0
"""A reader that is not told looks by itself after so long."""

OnEvent = Callable[[Control | Data], None]
OnEnd = Callable[[ExchangeError | None], None]


@dataclass(frozen=True, slots=True)
class _Rest:
    """Of a message that was written in part: what is left, as it goes through the socket."""

    data: Payload


@dataclass(frozen=True, slots=True)
class _End:
    """How a connection ended; without an error the peer said Bye."""

    error: ExchangeError | None


_Item: TypeAlias = tuple[list[Payload], bool] | _Rest
_Outgoing: TypeAlias = _Item | threading.Event | None


class Channel:
    """A connection to one peer.

    Until :meth:`start` its events are pulled by :meth:`next_event`; from then on a reader thread pushes them to
    ``on_event`` and says once how it ended to ``on_end`` (None: the peer said Bye); so does :meth:`pull`, in the thread
    that calls it. :meth:`send` never waits for the peer: a writer thread does.

    Args:
        pipe: an open pipe, after its TLS handshake.
        connection: the protocol's state for it.
        peer: how messages name the other end, such as "device 1 at 127.0.0.1:17301".
    """

    def __init__(self, pipe: Pipe, connection: Connection, peer: str) -> None:
        self.pipe, self.connection, self.peer = pipe, connection, peer
        self.sent, self.received = Traffic(), Traffic()
        self.way: Way | None = None
        """The link that is emulated between the two ends, if any; to be set before :meth:`start`."""
        self._lock = threading.Lock()
        self._sending, self._reading = threading.Lock(), threading.Lock()
        self._unwritten = self._unwritten_bytes = 0
        self._readable: select.epoll | None = None
        self._outgoing: queue.SimpleQueue[_Outgoing] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._on_end: OnEnd = lambda error: None
        self._deliver: OnEvent = lambda event: None

    # -- before the threads run

    def next_event(self, deadline: float) -> Event:
        """The next event, read here and now; raises :class:`DeadlineError` and what breaks the connection."""
        while True:
            with self._lock:
                event = self.connection.next_event()
            if event is not NEED_DATA:
                self._count_received(event)
                return event
            try:
                set_timeout(self.pipe.sock, deadline)
                data = self.pipe.read()
            except (TimeoutError, DeadlineError):
                raise DeadlineError(f"{self.peer} did not answer in time") from None
            except OSError as error:
                raise self._lost(error) from error
            with self._lock:
                self.connection.receive_data(data)

    def send_now(self, event: Control, deadline: float) -> None:
        """Write an event here and now, before :meth:`start`."""
        with self._lock:
            buffers = self.connection.send(event)
        try:
            set_timeout(self.pipe.sock, deadline)
            self._write(buffers, is_data=False)
        except (TimeoutError, DeadlineError):
            raise DeadlineError(f"{self.peer} did not take what was sent in time") from None
        except OSError as error:
            raise self._lost(error) from error

    # -- with the threads

    def start(self, on_event: OnEvent, on_end: OnEnd, waiting: Changed | None = None) -> None:
        """Push events from now on; both callbacks must not wait. They run in this channel's threads, and in that of who
        waits for a :class:`PullingCondition`, if one is given."""
        self._on_end = on_end
        self._deliver = on_event
        self.pipe.sock.settimeout(None)
        if self.way is not None:
            self.way.open(on_event, self._finish)
            self._deliver = self.way.deliver
        elif isinstance(waiting, PullingCondition):
            waiting.add(self.pipe.sock.fileno(), self.pull)
            self._readable = select.epoll()
            self._readable.register(self.pipe.sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._threads = [
            threading.Thread(target=target, name=f"{target.__name__.strip('_')} {self.peer}", daemon=True)
            for target in (self._read_loop, self._write_loop)
        ]
        try:
            for thread in reversed(self._threads):  # the reader, when it ends, waits for the writer
                thread.start()
        except RuntimeError as error:
            self._ended.set()
            self._threads = []
            self.abort()
            raise PeerLostError(f"{self.peer}: no thread can be started for it on this machine ({error})") from error

    def send(self, event: Control | Data) -> None:
        """Queue an event; raises :class:`LocalProtocolError` when it has no place here. A dead peer is not noticed."""
        with self._sending:
            with self._lock:
                buffers, is_data = self.connection.send(event), isinstance(event, Data)
            if self.way is not None and is_data:
                self.way.post(sum(map(len, buffers)))
            item = self._write_at_once(buffers, is_data)
            if item is not None:
                self._queue(item)
        if self._unwritten_bytes > max_kept_bytes() or self._unwritten > MAX_UNWRITTEN_FRAMES:
            self._finish(PeerLostError(f"{self.peer} does not read: {self._unwritten} messages for it waited"))

    def _queue(self, item: _Item) -> None:
        """For the writer; nothing is kept for a peer that is gone."""
        if not self._ended.is_set():
            self._unwritten += 1
            self._unwritten_bytes += _bytes_of(item)
            self._outgoing.put(item)

    def _write_at_once(self, buffers: list[Payload], is_data: bool) -> _Item | None:
        """What is left to the writer: nothing, the rest, or all of it where others wait already, or it is long."""
        may = self.way is None and CAN_DO_WITHOUT_WAITING and self._threads and not self._unwritten
        if not may or len(buffers[-1]) > _WRITTEN_AT_ONCE_BYTES:
            return buffers, is_data
        try:
            rest = self.pipe.write_some(b"".join(buffers))
        except OSError:
            return buffers, is_data  # the writer runs into it too, and tells
        self._count_sent(sum(map(len, buffers)), is_data)
        return _Rest(rest) if len(rest) else None

    def pull(self) -> bool:
        """Push what has come, without waiting for more; False at the end. Only between :meth:`start` and the end."""
        if self._ended.is_set():
            return False
        end = self._read_what_came()
        if end is not None:
            self._finish(end.error)
        return end is None

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued is written."""
        written = threading.Event()
        self._outgoing.put(written)
        limit = time.monotonic() + timeout_s
        while not written.wait(0.01):
            if self._ended.is_set() or time.monotonic() > limit:
                return False
        return True

    def close(self, timeout_s: float = 1.0) -> None:
        """Say Bye, let the peer finish, and close; never waits longer than ``timeout_s``."""
        limit = time.monotonic() + timeout_s
        with contextlib.suppress(LocalProtocolError):
            if not self.connection.said_bye and self._threads:
                self.send(Bye())
        self._outgoing.put(None)
        me = threading.current_thread()
        if self._threads and me not in self._threads:
            reader, writer = self._threads
            writer.join(max(0.0, limit - time.monotonic()))
            with contextlib.suppress(OSError):
                self.pipe.sock.shutdown(socket.SHUT_WR)
            reader.join(max(0.0, limit - time.monotonic()))
        self.abort()

    def abort(self) -> None:
        """Close at once; both threads end."""
        with contextlib.suppress(OSError):
            self.pipe.sock.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(None)
        if not self._threads:
            self.pipe.sock.close()

    def close_descriptors(self) -> None:
        """In a process that was forked: nothing is said, and the connection stays as it is for the other process."""
        self.pipe.sock.close()
        if self._readable is not None:
            self._readable.close()

    def traffic(self) -> dict[str, Any]:
        """What was counted so far, as plain data."""
        self.sent.raw_bytes, self.received.raw_bytes = self.pipe.raw_sent_bytes, self.pipe.raw_received_bytes
        return {"sent": asdict(self.sent), "received": asdict(self.received)}

    # -- the threads

    def _read_loop(self) -> None:
        try:
            end = self._read(wait=None)
            while end is None:
                end = self._read(wait=True) if self._readable is None else self._read_what_came()
                if end is None and self._readable is not None:
                    self._readable.poll(_LOOK_AGAIN_S)
            if self.way is not None:
                self.way.close()
            self._finish(end.error)
        finally:
            self._threads[1].join(1.0)  # no thread may still hold the descriptor when it is given back
            if self._readable is not None:
                self._readable.close()
            with self._lock:
                self.connection.forget()
            # nobody is about to use the descriptor's number, which another may get; in this order: who reads may send
            with self._reading, self._sending:
                self.pipe.sock.close()

    def _read_what_came(self) -> _End | None:
        with self._reading:
            end = self._read(wait=False)
            while end is None and self.pipe.holds_more:
                end = self._read(wait=False)
            return end

    def _read(self, wait: bool | None) -> _End | None:
        """Read once, or with None not at all, and push the events that are complete; how the connection ended, if it
        did."""
        try:
            data = None if wait is None else self.pipe.read(wait)
            with self._lock:
                if data is not None:
                    self.connection.receive_data(data)
                event = self.connection.next_event()
            while event is not NEED_DATA:
                if isinstance(event, Closed):
                    return _End(None if event.cleanly else self._lost(None))
                self._count_received(event)
                self._deliver(event)
                if self.connection.is_empty:
                    return None
                with self._lock:
                    event = self.connection.next_event()
            return None
        except BlockingIOError:
            return None
        except ExchangeError as error:
            return _End(error)
        except OSError as error:
            return _End(self._lost(error))
        except Exception as error:  # a mistake of ours, or no memory: it ends this connection and is told
            return _End(self._broken(error))

    def _write_loop(self) -> None:
        try:
            while (item := self._outgoing.get()) is not None:
                if isinstance(item, threading.Event):
                    item.set()
                    continue
                if isinstance(item, _Rest):
                    self.pipe.write_rest(item.data)
                else:
                    self._write(*item)
                with self._sending:
                    self._unwritten -= 1
                    self._unwritten_bytes -= _bytes_of(item)
        except ExchangeError as error:
            self._finish(error)
        except OSError as error:
            self._finish(self._lost(error))
        except Exception as error:
            self._finish(self._broken(error))
        finally:
            self._forget_unwritten()
            if self.way is not None:
                self.way.abandon()

    def _forget_unwritten(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._outgoing.get_nowait()

    def _finish(self, error: ExchangeError | None) -> None:
        with self._lock:
            first = not self._ended.is_set()
            self._ended.set()
        if first:
            with survives("the end of a connection"):
                self._on_end(error)
        self._outgoing.put(None)
        with contextlib.suppress(OSError):
            self.pipe.sock.shutdown(socket.SHUT_RDWR)

    def _write(self, buffers: list[Payload], is_data: bool) -> None:
        length = sum(map(len, buffers))
        if self.way is not None and is_data:
            self.way.depart()
        for buffer in _join_head(buffers):
            self.pipe.write(buffer)
        self._count_sent(length, is_data)

    def _count_sent(self, length: int, is_data: bool) -> None:
        if is_data:
            self.sent.add_message(length - FRAME_HEADER_BYTES, length)
        else:
            self.sent.control_bytes += length

    def _count_received(self, event: Event) -> None:
        if isinstance(event, Data):
            self.received.add_message(len(event.payload), len(event.payload) + FRAME_HEADER_BYTES)
        self.received.control_bytes = self.connection.control_bytes_received

    def _broken(self, error: Exception) -> PeerLostError:
        say_once("a connection", error)
        return PeerLostError(f"{self.peer}: unexpected {type(error).__name__}: {error}")

    def _lost(self, error: OSError | None) -> PeerLostError:
        how = f" ({error.strerror or error})" if error else ""
        return PeerLostError(f"{self.peer} closed the connection{how}")


def _bytes_of(item: _Item) -> int:
    return len(item.data) if isinstance(item, _Rest) else sum(map(len, item[0]))


_HEAD_BYTES = (16 << 10) - FRAME_HEADER_BYTES
"""A header and this much of a payload make one TLS record."""


def _join_head(buffers: list[Payload]) -> list[Payload]:
    """The same bytes with the header joined to the front of its payload: one record, one packet instead of two."""
    if len(buffers) == 1:
        return buffers
    header, payload = buffers
    view = memoryview(payload)
    rest = view[_HEAD_BYTES:]
    return [b"".join((header, view[:_HEAD_BYTES])), *([rest] if len(rest) else [])]
