"""What a worker writes down: one line an event, by Python's ``logging``, as text or as JSON.

A line holds what happened and where, never a payload or a key. What strangers may have a hand in is escaped and cut,
and what they may repeat is summed up: they can neither forge a line nor fill the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from sepnas.runtime.line_writer import LineHandler
from sepnas.terminal import one_line

LOGGER = "sepnas.worker"
SUMMED_S = 1.0
"""Lines of one kind that are summed up come no more often."""
_MOST_CHARACTERS = 300
_PLAIN = re.compile(r"[\w.:/@+\[\]-]+", re.ASCII)

LogFormat: TypeAlias = Literal["text", "json"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Field: TypeAlias = "str | int | float | None"


def set_up_logging(form: LogFormat, level: LogLevel) -> None:
    """Write the worker's events from this level on to stderr."""
    handler = LineHandler(sys.stderr, _dropped)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logger = logging.getLogger("sepnas")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())


def _dropped(count: int) -> logging.LogRecord:
    """What is said when nobody read for a while."""
    text = f"log lines dropped: count={count}"
    record = logging.LogRecord(LOGGER, logging.WARNING, "", 0, text, None, None)
    record.event, record.fields = "log lines dropped", {"count": count}
    return record


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO session opened: device=0 session=3f2a91bc``"""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(f"{_utc(record)} {record.levelname} {record.getMessage()}")


class JsonLines(logging.Formatter):
    """One object a line: ``time``, ``level``, ``event``, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = getattr(record, "event", record.getMessage()), getattr(record, "fields", {})
        return json.dumps({"time": _utc(record), "level": record.levelname.lower(), "event": event, **fields})


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class _Window:
    """What has come of one kind since its last line."""

    timer: threading.Timer
    count: int = 0
    level: int = logging.INFO
    event: str = ""
    fields: dict[str, Field] | None = None


class WorkerLog:
    """The events of device ``rank``; each line names it."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._logger = logging.getLogger(LOGGER)
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self._closed = False

    def say(self, event: str, level: int = logging.INFO, **fields: Field) -> None:
        """Write one line; a field that is None is left out."""
        if self._logger.isEnabledFor(level):
            told = {name: _cut(value) for name, value in {"device": self._rank, **fields}.items() if value is not None}
            text = " ".join(f"{name}={_word(value)}" for name, value in told.items())
            # escaped already, and no template: there are no arguments
            self._logger.log(level, f"{event}: {text}", extra={"event": event, "fields": told})

    def say_summed(self, kind: str, event: str, level: int = logging.WARNING, **fields: Field) -> None:
        """Write one line; of the next ones of this ``kind`` one a second, with the last one's fields and how many
        there were (``repeated``)."""
        with self._lock:
            window = self._windows.get(kind)
            if window is not None:
                window.count += 1
                window.level, window.event, window.fields = level, event, fields
                return
            if not self._closed:
                self._open(kind)
        self.say(event, level, **fields)

    def flush(self) -> None:
        """Wait a moment until all is written."""
        for handler in logging.getLogger("sepnas").handlers:
            handler.flush()

    def close(self) -> None:
        """Write what was summed up so far."""
        with self._lock:
            self._closed, windows, self._windows = True, list(self._windows.values()), {}
        for window in windows:
            window.timer.cancel()
            self._say_window(window)

    def _open(self, kind: str) -> None:
        """The lock is held; where no thread is to be had nothing is summed up."""
        timer = threading.Timer(SUMMED_S, self._over, (kind,))
        timer.daemon = True
        with contextlib.suppress(RuntimeError):
            timer.start()
            self._windows[kind] = _Window(timer)

    def _over(self, kind: str) -> None:
        with self._lock:
            window = self._windows.pop(kind, None)
            if window is not None and window.count:
                self._open(kind)
        if window is not None:
            self._say_window(window)

    def _say_window(self, window: _Window) -> None:
        if window.count:
            self.say(window.event, window.level, **(window.fields or {}), repeated=window.count)


def _cut(value: Field) -> Field:
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]}..."
    return value


def _word(value: Any) -> str:
    """A field's value in a line of text: as it is, or quoted with everything escaped that is not printable ASCII."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
