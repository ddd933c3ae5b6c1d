"""Warnings of a service on stderr: the first line of a kind at once, then one a minute that counts the others."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from sepnas.runtime.line_writer import LineWriter
from sepnas.runtime.repeats import RepeatSummary
from sepnas.terminal import printable

SUMMED_S = 60.0
MAX_KINDS = 100
_LOGGERS = ("asyncio", "sepnas.serve", "uvicorn.error")


def set_up_summed_log(name: str) -> SummedLines:
    """Send warnings of the service, its HTTP server and asyncio to stderr; ``name`` begins each line."""
    handler = SummedLines(name)
    for each in _LOGGERS:
        logger = logging.getLogger(each)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    return handler


class SummedLines(logging.Handler):
    """A kind is a message's template with the kind of its exception; only the first traceback of a kind is written."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._name, self._writer = name, LineWriter(sys.stderr)
        self._repeats: RepeatSummary[str] = RepeatSummary(lambda: SUMMED_S, self._write_summary, MAX_KINDS)
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held, which comes before that of the repeats."""
        error = record.exc_info[0] if record.exc_info else None
        if self._repeats.is_first(f"{record.name} {record.msg} {error}", _first_line(record.getMessage())):
            self._write(self.format(record))

    def close(self) -> None:
        """Write what was counted."""
        self._repeats.close()
        self._writer.flush()
        super().close()

    def _write_summary(self, text: str, count: int) -> None:
        with self._held():
            self._write(f"{text} ({count:,} more within {SUMMED_S:g} s)")

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


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
