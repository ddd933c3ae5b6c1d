"""The requests of one session that wait for the thread that computes, and the reason for which the session ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import PeerLostError
from sepnas.runtime.protocol.events import Ask, Request
from sepnas.runtime.transport.polling import close_condition, new_condition
from sepnas.runtime.worker.mailbox import Mailbox

Job: TypeAlias = tuple[Request | Ask, float]
"""A request or question and its time of arrival (``time.monotonic`` seconds)."""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why a session ends: ``rank`` is the lost peer, if any; ``tell`` is False if the client itself is gone."""

    error: PeerLostError
    rank: int | None = None
    tell: bool = True


class RequestQueue:
    """Jobs in order of arrival, beside the mailbox with their messages; one condition, ``changed``, guards both.

    The channels' threads put jobs, one thread takes them. It also waits on ``changed`` for messages, and reads
    connections meanwhile where the system allows it.
    """

    def __init__(self) -> None:
        self.changed = new_condition()
        self.mailbox = Mailbox(self.changed)
        self.ending: SessionEnd | None = None
        self._jobs: deque[Job | None] = deque()  # None wakes the taker once the session is over

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def put(self, event: Request | Ask) -> None:
        """Queue a job that has just arrived."""
        self._append((event, time.monotonic()))

    def take(self) -> Job | None:
        """Wait for the next job; None once the session is over."""
        with self.changed:
            while not self._jobs:
                self.changed.wait()
            job = self._jobs.popleft()
        return None if self.ending else job

    def drop_request(self, number: int) -> None:
        """Forget a request that is not run; it is queued no longer."""
        self._drop(lambda event: isinstance(event, Request) and event.request == number)

    def drop_questions(self) -> None:
        """Forget all questions: a client waits for its last one only."""
        self._drop(lambda event: isinstance(event, Ask))

    def end(self, ending: SessionEnd) -> None:
        """End the session and wake every waiting thread; the first reason counts. May be called in any thread."""
        self.ending = self.ending or ending
        self.mailbox.fail(ending.error)
        self._append(None)

    def close(self) -> None:
        """No thread waits any more."""
        close_condition(self.changed)

    def forget(self) -> None:
        """Free jobs and messages now, not when the garbage collector finds the session."""
        self.mailbox.close()
        self._jobs.clear()
        if self.ending:
            self.ending.error.with_traceback(None)

    def _append(self, job: Job | None) -> None:
        with self.changed:
            self._jobs.append(job)
            self.changed.notify_all()

    def _drop(self, unwanted: Callable[[Request | Ask], bool]) -> None:
        with self.changed:
            self._jobs = deque(job for job in self._jobs if job is None or not unwanted(job[0]))
