"""Collecting the events of one request until there is an answer or an error; no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.errors import ExchangeError, again
from sepnas.plan.plan import Port
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.answer import Answer, Missing
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.failures import GATHER_S
from sepnas.runtime.client.inboxes import Arrival
from sepnas.runtime.client.pending_output import PendingOutput
from sepnas.runtime.protocol.events import Data, Failed, Missed
from sepnas.runtime.tensors.codec import Array

_MIN_MARGIN_S, _MAX_MARGIN_S, _MARGIN_SHARE = 0.001, 0.05, 0.05
_GRACE_S = 0.005
"""An error that comes this much after the deadline still counts."""
_DETAILS_S = 0.01
"""Time to wait after a partial answer: it may overtake the reports of what is missing."""


def margin_s(limit_s: float) -> float:
    """Devices give up this much before the client: their reports name the cause."""
    return min(_MAX_MARGIN_S, max(_MIN_MARGIN_S, _MARGIN_SHARE * limit_s))


@dataclass
class Reply:
    """Collects the events of a request until it is :attr:`done`, or until :attr:`until` (``time.monotonic`` seconds).

    All pieces of the ``outputs`` must come until ``deadline`` (``time.monotonic`` seconds). Devices ``without`` take no
    part. If the request is ``tolerant``, devices may fail: an output of which a piece does not come is replaced by its
    fallbacks, which can be recalled (:meth:`fall_back`).
    """

    request: int
    batch: int
    outputs: tuple[Port, ...]
    deadline: float
    without: frozenset[int] = frozenset()
    tolerant: bool = False
    plan: str = DEFAULT_PLAN
    connections: DeviceConnections | None = field(default=None, repr=False)
    """The connections that the request was sent through."""
    sent_ns: int = field(default_factory=time.monotonic_ns)
    done: bool = False
    until: float = field(init=False)
    _limit_s: float = field(init=False)
    _recall_at: float = field(init=False)
    _end: float = field(init=False)
    _pending: tuple[PendingOutput, ...] = field(init=False)
    _arrived_ns: dict[int, int] = field(default_factory=dict)
    _missing: list[Missing] = field(default_factory=list)
    _failed: set[int] = field(default_factory=set)
    _reports: list[Failed] = field(default_factory=list)
    _lost: ExchangeError | None = None

    def __post_init__(self) -> None:
        start = time.monotonic()
        self._pending = tuple(map(PendingOutput, self.outputs))
        self._limit_s = max(0.0, self.deadline - start)
        self._end = self.deadline + _GRACE_S
        self._recall_at = self.deadline - margin_s(self._limit_s) if self._has_others() else self._end
        is_hopeless = any(output.is_hopeless(self.without) for output in self._pending)
        self.until = start if is_hopeless else self._recall_at

    @property
    def device_limit_s(self) -> float:
        """The devices' time limit: shorter than the client's, so that there is time for a fallback."""
        return self._limit_s - margin_s(self._limit_s) * (2 if self._has_others() else 1)

    @property
    def left_s(self) -> float:
        """Remaining time to wait for the next event."""
        return max(0.0, self.until - time.monotonic())

    @property
    def silent(self) -> frozenset[int]:
        """Devices that did not deliver in time and did not report why."""
        silent = {missing.source for missing in self._missing}
        for output in self._pending:
            if output.recalled and not output.is_whole:
                silent |= output.pending | (output.recalled.keys() - output.answered)
        return frozenset(silent - self._away)

    @property
    def of_no_use(self) -> frozenset[int]:
        """Devices that did not do their part of the request."""
        return self._away | {missing.source for missing in self._missing}

    @property
    def _away(self) -> frozenset[int]:
        """Devices from which nothing comes any more."""
        return self.without | self._failed

    @property
    def arrived_ns(self) -> dict[int, int]:
        """When the messages of the answer came (``time.monotonic_ns``), by tag, but for the last one."""
        return dict(list(self._arrived_ns.items())[:-1])

    # -- events

    def take(self, arrival: Arrival) -> None:
        """Take an event. After a first report of a failure others are awaited for a moment: one may name the cause."""
        rank, event = arrival
        if isinstance(event, Missed):
            self._missing.append(Missing(event.rank, event.source, event.tag))
        elif isinstance(event, Data):
            self._take_answer(rank, event)
        elif isinstance(event, Failed | ExchangeError):
            self._take_failure(rank, event)

    def _take_answer(self, rank: int, event: Data) -> None:
        self._arrived_ns.setdefault(event.tag, time.monotonic_ns())
        for output in self._pending:
            output.take(rank, event)
        if all(output.is_whole for output in self._pending) and not self._is_detailed():
            self.until = min(self.until, time.monotonic() + _DETAILS_S)
        else:
            self.done |= self._is_over()

    def _is_detailed(self) -> bool:
        """Whether it is known what is missing, if anything is."""
        return bool(self.without or self._missing) or not any(output.is_partial for output in self._pending)

    def _take_failure(self, rank: int, event: Failed | ExchangeError) -> None:
        self._failed.add(rank)
        if rank == CLIENT:  # the session was closed
            assert isinstance(event, ExchangeError)
            self._lost, self._reports, self.done = event, [], True
        elif self.tolerant:
            self._do_without(rank, event)
        elif isinstance(event, ExchangeError):
            self._lost = self._lost or event
            # a device reported that it waits for this one, which is now lost here too: that is the cause
            self.done = not self._reports or any(report.waiting_for == rank for report in self._reports)
        else:
            if not self._reports:
                self.until = min(self.until, time.monotonic() + GATHER_S)
            self._reports.append(event)

    def _do_without(self, rank: int, event: Failed | ExchangeError) -> None:
        if any(rank in output.pending for output in self._pending):
            if isinstance(event, Failed):
                self._reports = [event]
            else:
                self._lost = event
            if any(rank in output.pending and not output.recalled for output in self._pending):
                self.until = time.monotonic()  # the others are recalled now
        self.done |= self._is_over()

    def _has_others(self) -> bool:
        """Whether an output has a fallback."""
        return self.tolerant and any(output.others(self._away) for output in self._pending)

    def _is_over(self) -> bool:
        """Whether nothing more comes that would change the answer, or there will be none."""
        over = [output for output in self._pending if output.is_over(self._away)]
        return len(over) == len(self._pending) or any(not (output.is_whole or output.answered) for output in over)

    # -- the end

    def fall_back(self) -> list[tuple[int, int]]:
        """The wait is over: returns the fallbacks to recall, as ranks and tags, which are then awaited.

        They are those of outputs that are late, or of which a device is gone. If there is nothing more to wait for, the
        reply is done.
        """
        late, now = self.until >= self._recall_at, time.monotonic()
        over = self.until >= self._end or all(output.is_whole for output in self._pending)
        recalled = self._recall(late) if self.tolerant else []
        if recalled:
            # a device that was not awaited while its answer was expected is given a moment too
            self._end = max(self._end, now + margin_s(self._limit_s))
        self.done |= self._is_over() or (over and not recalled) or not self.tolerant
        self.until = self._end if late or self._all_recalled() else self._recall_at
        return recalled

    def _recall(self, late: bool) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for output in self._pending:
            if not (output.is_whole or output.recalled) and (late or output.is_hopeless(self._away)):
                output.recalled = output.others(self._away)
                found += output.recalled.items()
        return found

    def _all_recalled(self) -> bool:
        return all(output.is_whole or output.recalled for output in self._pending)

    def answer(self, connections: DeviceConnections, scores: str | None = None) -> Answer:
        """The decoded answer, of which ``scores`` names the class scores; raises the error that takes its place.

        An output that is not whole is the mean of its fallbacks.
        """
        found = {output.port.name: output.array(self.batch) for output in self._pending}
        outputs: dict[str, Array] = {name: array for name, array in found.items() if array is not None}
        if len(outputs) == len(found):
            missing, without = tuple(self._missing), self.without
            is_whole = all(output.is_whole and not output.is_partial for output in self._pending)
            complete = is_whole and not (missing or without)
            without = without.union(*(output.left_out(self.batch) for output in self._pending))
            named = scores if scores in outputs else None
            return Answer(outputs, named, complete, missing, tuple(sorted(without)))
        if self._reports:
            raise connections.explain(self._reports, self._lost, ends_session=not self.tolerant)
        if self._lost is not None:
            raise again(self._lost) if self.tolerant else connections.end(self._lost)
        doing = f"working on request {self.request} ({self._limit_s:g} s)"
        raise connections.late(self._late_ranks(), doing)

    def _late_ranks(self) -> frozenset[int]:
        """The devices that were waited for at the end."""
        late = [output for output in self._pending if not output.is_whole]
        return frozenset().union(*(output.recalled.keys() or output.pending for output in late))
