"""Writes lines to a stream whose reader may be slow, stuck or gone; the caller never blocks and never fails."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TextIO

from sepnas.terminal import one_line

MAX_LINES = 1000
"""Maximum number of queued lines; further lines are dropped and counted."""
FLUSH_S = 1.0
"""Maximum time for writing queued lines at process exit, in seconds."""
_LINGER_S, _LOOK_S = 1.0, 0.02


class LineWriter:
    """Writes lines to a stream from a background thread; ``told`` formats the number of dropped lines as a line.

    A stream without a file descriptor (in tests) is written to directly.
    """

    def __init__(self, stream: TextIO, told: Callable[[int], str] = "{:,} lines before this one were dropped".format):
        self._stream, self._told = stream, told
        self._descriptor = _own_descriptor(stream)
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._dropped, self._running, self._writing = 0, False, False
        atexit.register(_flush_at_exit, weakref.ref(self))
        if self._descriptor is not None:
            # not at process exit: queued lines are still written then
            weakref.finalize(self, os.close, self._descriptor).atexit = False

    def write(self, line: str) -> None:
        """Queue a line, given without its line break; drop it if the queue is full."""
        if self._descriptor is None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(f"{line}\n")
                self._stream.flush()
            return
        with self._changed:
            if len(self._lines) >= MAX_LINES or not self._runs():
                self._dropped += 1
                return
            if self._dropped:
                self._lines.append(self._told(self._dropped))
                self._dropped = 0
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait at most ``timeout_s`` until the queue is written; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _runs(self) -> bool:
        """Whether the writer thread runs, started if necessary (an idle one ends); the caller holds the lock."""
        if not self._running:
            with contextlib.suppress(RuntimeError):  # no thread available: the next line tries again
                threading.Thread(target=self._run, name="write lines", daemon=True).start()
                self._running = True
        return self._running

    def _run(self) -> None:
        while (line := self._next()) is not None:
            written = self._write(line)
            with self._changed:
                self._writing = False
                self._dropped += not written
                self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._lines, _LINGER_S):
                self._running = False
                return None
            self._writing = True
            return self._lines.popleft()

    def _write(self, line: str) -> bool:
        assert self._descriptor is not None
        data = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process made the shared pipe non-blocking
                time.sleep(_LOOK_S)
            except OSError:
                return False
        return True


def announce(text: str) -> None:
    """Print one line on stdout; never blocks, even if stdout is not read."""
    LineWriter(sys.stdout).write(one_line(text))


class LineHandler(logging.Handler):
    """A ``logging`` handler that never blocks and never raises."""

    def __init__(self, stream: TextIO, told: Callable[[int], logging.LogRecord]) -> None:
        super().__init__()
        self.writer = LineWriter(stream, lambda count: self.format(told(count)))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a record that cannot be formatted cannot be reported either
            self.writer.write(self.format(record))

    def flush(self) -> None:
        """Wait at most ``FLUSH_S`` for the queued lines."""
        self.writer.flush()


def _own_descriptor(stream: TextIO) -> int | None:
    try:
        return os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _flush_at_exit(reference: weakref.ref[LineWriter]) -> None:
    writer = reference()
    if writer is not None:
        writer.flush(FLUSH_S)
