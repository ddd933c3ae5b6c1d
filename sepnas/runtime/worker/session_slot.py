"""The place of the one session that a worker serves at a time, and who may have it.

A client that comes while another one is served waits for a moment, since that one may be on its way out. It gets the
place if the holder does not answer a ping or has been idle for long; otherwise it is told who holds the device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sepnas.runtime.worker.session import WorkerSession

HOLDER_ANSWER_S = 5.0
"""A client that does not answer within this time loses its place when another one asks."""
MAX_IDLE_S = 600.0
"""So does a client that has not sent a request for this time."""
MAX_WAITING = 4
"""Maximum number of clients that wait for the place; others are refused at once."""
_BUSY_WAIT_S = 2.0
_CHECK_S = 0.1
_STOP_WAIT_S = 5.0


class SessionSlot:
    """Holds at most one session. All threads may call it.

    Lock order: ``_changed`` comes before every lock of a session; no session calls in here.
    """

    def __init__(self) -> None:
        self.session: WorkerSession | None = None
        self._changed = threading.Condition()
        self._num_waiting = 0
        self._closed = False

    def claim(self, name: str, make: Callable[[], WorkerSession]) -> WorkerSession | str | None:
        """Wait for the place and fill it with a new session, to be given back by :meth:`release`.

        A session of the same name is stopped: its client dials again because it lost the connection. Returns the text
        that describes the holder if the place is not to be had, and None if the slot is closed.
        """
        with self._changed:
            if self.session is not None and self.session.name == name:
                self.session.stop("was dialed again by its client")
            holder = self._await_place()
            if holder is not None:
                return holder
            if self._closed:
                return None
            self.session = make()
            return self.session

    def release(self) -> None:
        """The session is over."""
        with self._changed:
            self.session = None
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the session, if there is one, and admit no other."""
        with self._changed:
            self._closed = True
            if self.session is not None:
                self.session.stop("was stopped")
            self._changed.wait_for(lambda: self.session is None, _STOP_WAIT_S)

    def _await_place(self) -> str | None:
        """Wait until no client is served, or describe the one that is. The lock is released while this waits."""
        session, asked = self.session, time.monotonic()
        if session is None:
            return None
        if self._num_waiting >= MAX_WAITING:
            return session.client.holder
        self._num_waiting += 1
        try:
            session.client.ping()
            self._wait_for_end_of(session, _BUSY_WAIT_S)
            self._take_from_silent(session, asked)
            self._take_from_idle(session)
            return None if self.session is None else self.session.client.holder
        finally:
            self._num_waiting -= 1

    def _take_from_silent(self, session: WorkerSession, asked: float) -> None:
        while self.session is session and not session.client.was_heard_since(asked):
            if time.monotonic() - asked >= HOLDER_ANSWER_S:
                self._take_from(session, f"its own did not answer for {HOLDER_ANSWER_S:g} s")
                return
            self._changed.wait(_CHECK_S)

    def _take_from_idle(self, session: WorkerSession) -> None:
        if self.session is session and session.idle_s() >= MAX_IDLE_S:
            self._take_from(session, f"its own sent no request for {MAX_IDLE_S:g} s")

    def _take_from(self, session: WorkerSession, why: str) -> None:
        session.stop(f"gave its place to another client: {why}")
        self._wait_for_end_of(session, _STOP_WAIT_S)

    def _wait_for_end_of(self, session: WorkerSession, timeout_s: float) -> None:
        self._changed.wait_for(lambda: self.session is not session, timeout_s)
