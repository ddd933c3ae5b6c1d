"""Runs the requests of a session one after another, and reports those that fail."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sepnas.errors import SepnasError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import Ask, DeviceReport, Request
from sepnas.runtime.protocol.times import RequestTimes
from sepnas.runtime.worker.client_link import ClientLink
from sepnas.runtime.worker.executor import Executor, RunningRequest, StepError, error_code, error_text
from sepnas.runtime.worker.log import SessionLog
from sepnas.runtime.worker.own_outputs import OwnOutputs
from sepnas.runtime.worker.peers import SessionPeers
from sepnas.runtime.worker.records import SessionRecords
from sepnas.runtime.worker.request_queue import RequestQueue
from sepnas.runtime.worker.stats import WorkerStats

MAX_TIMEOUT_S = 86_400.0
"""Longer deadlines of a client count as one day."""


class RequestRunner:
    """Takes jobs from the queue until the session is over; runs in the session's thread. ``executors`` by plan."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        queue: RequestQueue,
        client: ClientLink,
        peers: SessionPeers,
        own: OwnOutputs,
        records: SessionRecords,
        stats: WorkerStats,
        log: SessionLog,
    ) -> None:
        self._executors, self._queue, self._client, self._peers = executors, queue, client, peers
        self._own, self._records, self._stats, self._log = own, records, stats, log
        self._running, self._busy_s = False, time.monotonic()

    def work(self) -> None:
        """Run requests and answer questions; at the end the client is told why, unless it has left."""
        while (job := self._queue.take()) is not None:
            event, arrived = job
            if isinstance(event, Ask):
                self._answer(event)
            elif not self._queue.mailbox.is_over(event.request):
                self._run(event, arrived)
        ending = self._queue.ending
        if ending and ending.tell:
            self._client.tell_failed("peer-lost", str(ending.error), waiting_for=ending.rank)

    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one runs or waits."""
        return 0.0 if self._running or not self._queue.is_empty else time.monotonic() - self._busy_s

    def _run(self, event: Request, arrived: float) -> None:
        self._queue.mailbox.begin(event.request)
        self._records.requests += 1
        self._running = True
        degrade = self._peers.degrade
        deadline = arrived + min(event.deadline_ms / 1e3, MAX_TIMEOUT_S)
        request = RunningRequest(
            event.request, event.batch, deadline, degrade, frozenset(event.without), arrived, event.normalised
        )
        executor = self._executors[event.plan]
        try:
            times = executor.run(request)
        except StepError as error:
            self._fail(event.request, error, executor.describe(error.step))
            error.error.with_traceback(None)  # its frames hold tensors, and an error may be kept
        else:
            self._stats.count_served(time.monotonic() - arrived)
            self._records.add(RequestTimes(event.request, event.batch, times, event.plan))
            if degrade and request.own:
                self._own.keep(event.request, request.own)
        finally:
            self._running, self._busy_s = False, time.monotonic()

    def _answer(self, ask: Ask) -> None:
        if ask.what == "trace":
            data = self._records.trace(ask.last)
        else:
            data = self._records.counters({**self._peers.channels(), CLIENT: self._client.channel})
        self._client.tell(DeviceReport(what=ask.what, number=ask.number, data=data))

    def _fail(self, request: int, failure: StepError, where: str) -> None:
        """Count a failed request, and tell a client that still waits for it."""
        ending = self._queue.ending
        client_left = ending is not None and not ending.tell
        if client_left or self._queue.mailbox.is_over(request):
            self._stats.failed["cancelled"] += 1
            return
        code = error_code(failure.error)
        self._stats.failed[code] += 1
        self._log_failure(request, failure.error, where)
        if not self._queue.ending:  # it may have ended meanwhile
            message = f"device {self._client.rank}: {where}: {error_text(failure.error)}"
            self._client.tell_failed(
                code, message, request=request, step=failure.step, waiting_for=failure.waiting_for
            )  # fmt: skip

    def _log_failure(self, request: int, error: Exception, where: str) -> None:
        code = error_code(error)
        # of an error that is not ours only the class: its text may hold what was computed with
        text = str(error) if isinstance(error, SepnasError) else type(error).__name__
        self._log.say_summed(
            f"request failed {code}", "request failed", request=request, code=code, where=where, error=text
        )
