"""The sending side of a channel: small frames are written by the sender, the rest by a thread.

Waking a thread costs more than writing a small frame, so a sender writes it itself if the socket takes it at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.memory import max_kept_bytes
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.counters import Traffic
from sepnas.runtime.transport.delivery import LinkTiming
from sepnas.runtime.transport.pipes import CAN_DO_WITHOUT_WAITING, Pipe, set_timeout

MAX_DIRECT_WRITE_BYTES = 32 << 10
"""Longest payload that the sender writes itself; the thread encrypts longer ones while the sender computes."""
MAX_UNWRITTEN_FRAMES = 1 << 16
"""Maximum number of queued frames; a peer that lets more pile up does not read and counts as lost."""
_FIRST_RECORD_BYTES = (16 << 10) - FRAME_HEADER_BYTES
"""Payload bytes that fit into one TLS record together with the frame header."""


class _Frame(NamedTuple):
    """One event, encoded: a header, or a header and a payload."""

    buffers: list[Payload]
    is_data: bool

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.buffers))


@dataclass(frozen=True, slots=True)
class _Remainder:
    """The unwritten end of a frame that was written in part, as it goes through the socket (encrypted in TLS)."""

    data: Payload

    @property
    def size_bytes(self) -> int:
        return len(self.data)


_Item: TypeAlias = _Frame | _Remainder


class FrameWriter:
    """Writes frames to a pipe in the order of :meth:`post`, and counts them in ``sent``.

    ``lock`` fixes that order: hold it from encoding a frame until :meth:`post` returns. The writer's thread takes it
    only for its own bookkeeping, never while it writes.

    Args:
        pipe: the open connection.
        sent: counts what was written.
        ended: set when the connection is over; nothing is queued from then on.
    """

    def __init__(self, pipe: Pipe, sent: Traffic, ended: threading.Event) -> None:
        self.lock = threading.Lock()
        self.unwritten_frames = self.unwritten_bytes = 0
        self._pipe, self._sent, self._ended = pipe, sent, ended
        self._link: LinkTiming | None = None
        self._writes_directly = False
        self._queue: queue.SimpleQueue[_Item | threading.Event | None] = queue.SimpleQueue()

    @property
    def is_overfull(self) -> bool:
        """Whether more is queued than a peer that reads would leave."""
        return self.unwritten_bytes > max_kept_bytes() or self.unwritten_frames > MAX_UNWRITTEN_FRAMES

    def write_now(self, buffers: list[Payload], deadline: float) -> None:
        """Write a control frame before the thread runs; raises ``OSError`` or :class:`DeadlineError`."""
        set_timeout(self._pipe.sock, deadline)
        self._write(_Frame(buffers, is_data=False))

    def start(self, link: LinkTiming | None) -> None:
        """A thread is about to call :meth:`run`; ``link`` is the emulated link, if there is one."""
        self._link = link
        self._writes_directly = link is None and CAN_DO_WITHOUT_WAITING

    def post(self, buffers: list[Payload], is_data: bool) -> None:
        """Write a frame now if that needs no waiting, else queue it. The caller holds ``lock``."""
        frame = _Frame(buffers, is_data)
        if self._link is not None and is_data:
            self._link.post(frame.size_bytes)
        unwritten = self._write_directly(frame)
        if unwritten is not None and not self._ended.is_set():  # nothing is kept for a peer that is gone
            self.unwritten_frames += 1
            self.unwritten_bytes += unwritten.size_bytes
            self._queue.put(unwritten)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far is written; False if it is not within ``timeout_s``."""
        written = threading.Event()
        self._queue.put(written)
        limit = time.monotonic() + timeout_s
        while not written.wait(0.01):
            if self._ended.is_set() or time.monotonic() > limit:
                return False
        return True

    def stop(self) -> None:
        """Let :meth:`run` return after what is queued now."""
        self._queue.put(None)

    def run(self) -> None:
        """The thread: write what is queued until :meth:`stop`; raises whatever breaks the connection."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            if isinstance(item, _Remainder):
                self._pipe.write_rest(item.data)
            else:
                self._write(item)
            with self.lock:
                self.unwritten_frames -= 1
                self.unwritten_bytes -= item.size_bytes

    def abandon(self) -> None:
        """Drop what is still queued, after :meth:`run` has returned."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        if self._link is not None:
            self._link.abandon()

    def _write_directly(self, frame: _Frame) -> _Item | None:
        """What is left for the thread: nothing, the end of the frame, or the whole frame."""
        if not self._writes_directly or self.unwritten_frames or len(frame.buffers[-1]) > MAX_DIRECT_WRITE_BYTES:
            return frame
        try:
            rest = self._pipe.write_some(b"".join(frame.buffers))
        except OSError:
            return frame  # the thread meets the same error and reports it
        self._count(frame)
        return _Remainder(rest) if len(rest) else None

    def _write(self, frame: _Frame) -> None:
        if self._link is not None and frame.is_data:
            self._link.depart()
        for buffer in _join_head(frame.buffers):
            self._pipe.write(buffer)
        self._count(frame)

    def _count(self, frame: _Frame) -> None:
        size_bytes = frame.size_bytes
        if frame.is_data:
            self._sent.add_message(size_bytes - FRAME_HEADER_BYTES, size_bytes)
        else:
            self._sent.control_bytes += size_bytes


def _join_head(buffers: list[Payload]) -> list[Payload]:
    """The same bytes with the header joined to the start of its payload: one TLS record and packet instead of two."""
    if len(buffers) == 1:
        return buffers
    header, payload = buffers
    view = memoryview(payload)
    rest = view[_FIRST_RECORD_BYTES:]
    return [b"".join((header, view[:_FIRST_RECORD_BYTES])), *([rest] if len(rest) else [])]
