"""One connection at work: a pipe, the protocol's state, a thread that reads and a thread that writes.

Waking a thread costs more than a small message. A sender therefore writes small messages itself, and a thread that
waits for a message may read it itself (:mod:`sepnas.runtime.transport.polling`); the two threads do the rest while
others compute.

Three locks, taken in this order: the reader's (order of delivery), the writer's (order of sending), and the one of the
protocol's state, held for moments only. A callback that receives an event may send: reading comes before writing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

from sepnas.errors import DeadlineError, ExchangeError, LocalProtocolError, PeerLostError
from sepnas.runtime.protocol.connection import Connection
from sepnas.runtime.protocol.events import Bye, Control, Data, Event
from sepnas.runtime.transport.counters import Traffic
from sepnas.runtime.transport.delivery import LinkTiming
from sepnas.runtime.transport.pipes import Pipe
from sepnas.runtime.transport.polling import Changed, PullingCondition
from sepnas.runtime.transport.reader import EventReader, OnEvent
from sepnas.runtime.transport.writer import FrameWriter
from sepnas.runtime.unexpected import say_once, survives

OnEnd: TypeAlias = Callable[[ExchangeError | None], None]


class Channel:
    """A connection to one peer.

    Before :meth:`start` events are pulled by :meth:`next_event`. From then on they are pushed to ``on_event``, by the
    reader's thread or by one that calls :meth:`pull`, and the end is reported once to ``on_end``: None if the peer said
    Bye. :meth:`send` never waits for the peer.

    Args:
        pipe: an open pipe, after its TLS handshake.
        connection: the protocol's state.
        peer: the other end as messages name it, such as "device 1 at 127.0.0.1:17301".
    """

    def __init__(self, pipe: Pipe, connection: Connection, peer: str) -> None:
        self.pipe, self.connection, self.peer = pipe, connection, peer
        self.sent, self.received = Traffic(), Traffic()
        self.link: LinkTiming | None = None
        """The emulated link to the peer, if there is one; set it before :meth:`start`."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reader = EventReader(pipe, connection, self._lock, self.received)
        self._writer = FrameWriter(pipe, self.sent, self._ended)
        self._threads: list[threading.Thread] = []
        self._on_end: OnEnd = lambda error: None

    # -- before the threads run

    def next_event(self, deadline: float) -> Event:
        """The next event, read in this thread; raises :class:`DeadlineError` or what breaks the connection."""
        try:
            return self._reader.next_event(deadline)
        except (TimeoutError, DeadlineError):
            raise DeadlineError(f"{self.peer} did not answer in time") from None
        except OSError as error:
            raise self._lost(error) from error

    def send_now(self, event: Control, deadline: float) -> None:
        """Write an event in this thread, before :meth:`start`."""
        with self._lock:
            buffers = self.connection.send(event)
        try:
            self._writer.write_now(buffers, deadline)
        except (TimeoutError, DeadlineError):
            raise DeadlineError(f"{self.peer} did not take what was sent in time") from None
        except OSError as error:
            raise self._lost(error) from error

    # -- with the threads

    def start(self, on_event: OnEvent, on_end: OnEnd, waiting: Changed | None = None) -> None:
        """Push events from now on. Neither callback may wait.

        They run in this channel's threads and, if ``waiting`` is a :class:`PullingCondition`, in the thread that waits
        for it. Raises :class:`PeerLostError` if this machine has no thread left.
        """
        self._on_end = on_end
        self.pipe.sock.settimeout(None)
        pulling = waiting if self.link is None and isinstance(waiting, PullingCondition) else None
        self._reader.deliver = on_event if self.link is None else self._open_link(self.link, on_event)
        if pulling is not None:  # from here on others may pull
            pulling.add(self.pipe.sock.fileno(), self.pull)
            self._reader.share()  # afterwards: the kernel wakes the first one that watches, which is to be the waiter
        self._writer.start(self.link)
        self._start_threads()

    def send(self, event: Control | Data) -> None:
        """Write or queue an event; raises :class:`LocalProtocolError` if it is not allowed now.

        A dead peer raises nothing here: ``on_end`` reports it.
        """
        with self._writer.lock:
            with self._lock:
                buffers = self.connection.send(event)
            self._writer.post(buffers, isinstance(event, Data))
        if self._writer.is_overfull:
            waited = self._writer.unwritten_frames
            self._finish(PeerLostError(f"{self.peer} does not read: {waited} messages for it waited"))

    def pull(self) -> bool:
        """Deliver what has come, without waiting; False at the end. Only between :meth:`start` and the end."""
        if self._ended.is_set():
            return False
        try:
            if self._reader.read_available():
                return True
            ending = None
        except Exception as error:
            ending = self._as_exchange_error(error)
        self._finish(ending)
        return False

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far is written; False if it is not within ``timeout_s``."""
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float = 1.0) -> None:
        """Say Bye, let the peer finish, and close; never waits longer than ``timeout_s``."""
        limit = time.monotonic() + timeout_s
        if self._threads:
            # a Bye that another thread is sending is not looked for, but waited for: sending a second one raises
            with contextlib.suppress(LocalProtocolError):
                self.send(Bye())
        self._writer.stop()
        if self._threads and threading.current_thread() not in self._threads:
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
        self._writer.stop()
        if not self._threads:
            self.pipe.sock.close()

    def close_descriptors(self) -> None:
        """For a forked process: say nothing, and leave the connection open for the other process."""
        self.pipe.sock.close()
        self._reader.close()

    def traffic(self) -> dict[str, Any]:
        """Bytes and messages counted so far, as plain data."""
        self.sent.raw_bytes, self.received.raw_bytes = self.pipe.raw_sent_bytes, self.pipe.raw_received_bytes
        return {"sent": asdict(self.sent), "received": asdict(self.received)}

    # -- the threads

    def _open_link(self, link: LinkTiming, on_event: OnEvent) -> OnEvent:
        link.open(on_event, self._finish)
        return link.deliver

    def _start_threads(self) -> None:
        self._threads = [
            threading.Thread(target=target, name=f"{target.__name__.strip('_')} {self.peer}", daemon=True)
            for target in (self._read_loop, self._write_loop)
        ]
        try:
            for thread in reversed(self._threads):  # the reader joins the writer when it ends: start the writer first
                thread.start()
        except RuntimeError as error:
            self._ended.set()
            self._threads = []
            self.abort()
            raise PeerLostError(f"{self.peer}: no thread can be started for it on this machine ({error})") from error

    def _read_loop(self) -> None:
        try:
            ending = self._read_to_end()
            if self.link is not None:
                self.link.close()
            self._finish(ending)
        finally:
            self._release()

    def _read_to_end(self) -> ExchangeError | None:
        try:
            self._reader.run()
        except Exception as error:
            return self._as_exchange_error(error)
        return None

    def _release(self) -> None:
        """Close the descriptors once no other thread is about to use their numbers, which others may get."""
        self._threads[1].join(1.0)
        self._reader.close()
        with self._lock:
            self.connection.forget()
        with self._reader.lock, self._writer.lock:
            self.pipe.sock.close()

    def _write_loop(self) -> None:
        try:
            self._writer.run()
        except Exception as error:
            self._finish(self._as_exchange_error(error))
        finally:
            self._writer.abandon()

    def _finish(self, error: ExchangeError | None) -> None:
        with self._lock:
            first = not self._ended.is_set()
            self._ended.set()
        if first:
            with survives("the end of a connection"):
                self._on_end(error)
        self._writer.stop()
        with contextlib.suppress(OSError):
            self.pipe.sock.shutdown(socket.SHUT_RDWR)

    def _as_exchange_error(self, error: Exception) -> ExchangeError:
        """Anything but an :class:`ExchangeError`, ``OSError`` or ``EOFError`` is our own mistake, or no memory: it ends
        this connection and is logged."""
        if isinstance(error, ExchangeError):
            return error
        if isinstance(error, OSError | EOFError):
            return self._lost(error)
        say_once("a connection", error)
        return PeerLostError(f"{self.peer}: unexpected {type(error).__name__}: {error}")

    def _lost(self, error: OSError | EOFError) -> PeerLostError:
        how = f" ({error.strerror or error})" if isinstance(error, OSError) else ""
        return PeerLostError(f"{self.peer} closed the connection{how}")
