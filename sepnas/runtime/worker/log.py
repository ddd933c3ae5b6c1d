"""The worker's log: one line per event through Python's ``logging``, as text or as JSON.

A line names an event and its place, never a payload or a key. Text that a stranger may have chosen is escaped and cut,
and events that it may repeat are summed up, so it can neither forge a line nor fill the disk.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, TypeAlias

from sepnas.runtime.line_writer import LineHandler
from sepnas.runtime.repeats import RepeatSummary
from sepnas.runtime.worker.stats import short_name
from sepnas.terminal import one_line

LOGGER = "sepnas.worker"
SUMMED_S = 1.0
"""Period of a summed-up kind of line, in seconds."""
MAX_FIELD_CHARACTERS = 300
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
    """The line that tells of lines dropped while nobody read."""
    text = f"log lines dropped: count={count}"
    record = logging.LogRecord(LOGGER, logging.WARNING, "", 0, text, None, None)
    record.event, record.fields = "log lines dropped", {"count": count}
    return record


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO session opened: device=0 session=3f2a91bc``"""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(f"{_utc(record)} {record.levelname} {record.getMessage()}")


class JsonLines(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``event``, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = getattr(record, "event", record.getMessage()), getattr(record, "fields", {})
        return json.dumps({"time": _utc(record), "level": record.levelname.lower(), "event": event, **fields})


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Line(NamedTuple):
    event: str
    level: int
    fields: dict[str, Field]


class WorkerLog:
    """The events of device ``rank``; each line names it."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._logger = logging.getLogger(LOGGER)
        self._repeats: RepeatSummary[_Line] = RepeatSummary(lambda: SUMMED_S, self._say_summary)

    def say(self, event: str, level: int = logging.INFO, **fields: Field) -> None:
        """Write one line; a field that is None is left out."""
        if self._logger.isEnabledFor(level):
            told = {name: _cut(value) for name, value in {"device": self._rank, **fields}.items() if value is not None}
            text = " ".join(f"{name}={_word(value)}" for name, value in told.items())
            # escaped already; without arguments logging does not take it for a template
            self._logger.log(level, f"{event}: {text}", extra={"event": event, "fields": told})

    def say_summed(self, kind: str, event: str, level: int = logging.WARNING, **fields: Field) -> None:
        """Write one line; of the next ones of this ``kind`` one a second, with the fields of the last of them and
        their number (``repeated``)."""
        if self._repeats.is_first(kind, _Line(event, level, fields)):
            self.say(event, level, **fields)

    def flush(self) -> None:
        """Wait a moment until all lines are written."""
        for handler in logging.getLogger("sepnas").handlers:
            handler.flush()

    def close(self) -> None:
        """Write what has been summed up so far."""
        self._repeats.close()

    def _say_summary(self, line: _Line, count: int) -> None:
        self.say(line.event, line.level, **line.fields, repeated=count)


def _cut(value: Field) -> Field:
    if isinstance(value, str) and len(value) > MAX_FIELD_CHARACTERS:
        return f"{value[:MAX_FIELD_CHARACTERS]}..."
    return value


def _word(value: Any) -> str:
    """A field's value in a text line; quoted and escaped unless it is plain ASCII."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class SessionLog:
    """The log of one session: each line names it."""

    def __init__(self, log: WorkerLog, session: str) -> None:
        self._log, self._session = log, short_name(session)

    def say(self, event: str, level: int = logging.INFO, **fields: Field) -> None:
        """See :meth:`WorkerLog.say`."""
        self._log.say(event, level, session=self._session, **fields)

    def say_summed(self, kind: str, event: str, level: int = logging.WARNING, **fields: Field) -> None:
        """See :meth:`WorkerLog.say_summed`."""
        self._log.say_summed(kind, event, level, session=self._session, **fields)
