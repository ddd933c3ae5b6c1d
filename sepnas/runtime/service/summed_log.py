"""Warnings of a service on stderr: of each kind one line at once, then one a minute that counts the others.

What strangers may repeat as often as they like cannot fill the disk.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from sepnas.runtime.line_writer import LineWriter
from sepnas.terminal import printable

SUMMED_S = 60.0
MAX_KINDS = 100
_OTHERS = "others"
_LOGGERS = ("asyncio", "sepnas.serve", "uvicorn.error")


def set_up_summed_log(name: str) -> SummedLines:
    """Warnings of the service, of its HTTP server and of asyncio go to stderr; ``name`` begins each line."""
    handler = SummedLines(name)
    for each in _LOGGERS:
        logger = logging.getLogger(each)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    return handler


@dataclass(slots=True)
class _Window:
    timer: threading.Timer
    text: str = ""
    count: int = 0


class SummedLines(logging.Handler):
    """A kind is a template of a message with the kind of its exception; the first one's traceback is written."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._name, self._writer = name, LineWriter(sys.stderr)
        self._windows: dict[str, _Window] = {}
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        kind = self._kind(record)
        window = self._windows.get(kind)
        if window is None:
            self._open(kind)
            self._write(self.format(record))
        else:
            window.count += 1
            window.text = _line(record.getMessage())

    def close(self) -> None:
        """Write what was counted."""
        with self._held():
            windows, self._windows = list(self._windows.values()), {}
            for window in windows:
                window.timer.cancel()
                self._tell(window)
        self._writer.flush()
        super().close()

    def _kind(self, record: logging.LogRecord) -> str:
        error = record.exc_info[0] if record.exc_info else None
        kind = f"{record.name} {record.msg} {error}"
        return kind if kind in self._windows or len(self._windows) < MAX_KINDS else _OTHERS

    def _open(self, kind: str) -> None:
        timer = threading.Timer(SUMMED_S, self._over, (kind,))
        timer.daemon = True
        self._windows[kind] = _Window(timer)
        with contextlib.suppress(RuntimeError):  # no thread to be had: the next time counts on
            timer.start()

    def _over(self, kind: str) -> None:
        with self._held():
            window = self._windows.pop(kind, None)
            if window is not None and window.count:
                self._open(kind)
                self._tell(window)

    def _tell(self, window: _Window) -> None:
        if window.count:
            self._write(f"{window.text} ({window.count:,} more within {SUMMED_S:g} s)")

    def _write(self, text: str) -> None:
        told = "\n".join(printable(line) for line in text.strip().splitlines())
        self._writer.write(f"{self._name}: {told}")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _line(text: str) -> str:
    return text.partition("\n")[0]
