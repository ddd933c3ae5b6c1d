"""Collecting the events of one request until there is an answer or an error; no I/O."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.errors import ExchangeError, RemoteError, RemoteProtocolError, again
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.failures import GATHER_S
from sepnas.runtime.client.inboxes import Arrival
from sepnas.runtime.protocol.events import Data, Failed, Missed, PartialData
from sepnas.runtime.tensors.codec import Array, Payload

_MIN_MARGIN_S, _MAX_MARGIN_S, _MARGIN_SHARE = 0.001, 0.05, 0.05
_GRACE_S = 0.005
"""An error that comes this much after the deadline still counts."""
_DETAILS_S = 0.01
"""Time to wait after a partial answer: it may overtake the reports of what is missing."""


def margin_s(limit_s: float) -> float:
    """Devices give up this much before the client: their reports name the cause."""
    return min(_MAX_MARGIN_S, max(_MIN_MARGIN_S, _MARGIN_SHARE * limit_s))


@dataclass(frozen=True, slots=True)
class Missing:
    """Message ``tag`` from device ``source``, which ``device`` went on without."""

    device: int
    source: int
    tag: int


@dataclass(frozen=True)
class Answer:
    """Logits ``(B, classes)``, float32, and what is missing in them.

    ``missing``: messages that were late or lost. ``without``: devices that took no part, or whose logits did not come.
    ``complete``: it is the whole network's answer. An incomplete answer may name neither, if the device that knew was
    lost too.
    """

    logits: Array
    complete: bool = True
    missing: tuple[Missing, ...] = ()
    without: tuple[int, ...] = ()


@dataclass
class Reply:
    """Collects the events of a request until it is :attr:`done`, or until :attr:`until` (``time.monotonic`` seconds).

    The rank ``reader`` must answer until ``deadline`` (``time.monotonic`` seconds). Devices ``without`` take no part.
    If the request is ``tolerant``, other devices may fail; if the reader does, the remaining ``heads`` can be recalled
    (:meth:`fall_back`): each has logits of its own.
    """

    request: int
    batch: int
    reader: int
    deadline: float
    without: frozenset[int] = frozenset()
    tolerant: bool = False
    heads: frozenset[int] = frozenset()
    plan: str = DEFAULT_PLAN
    connections: DeviceConnections | None = field(default=None, repr=False)
    """The connections that the request was sent through."""
    sent_ns: int = field(default_factory=time.monotonic_ns)
    done: bool = False
    until: float = field(init=False)
    recalled: frozenset[int] = frozenset()
    _limit_s: float = field(init=False)
    _answer: Data | None = None
    _own: dict[int, Data] = field(default_factory=dict)
    _missing: list[Missing] = field(default_factory=list)
    _failed: set[int] = field(default_factory=set)
    _reports: list[Failed] = field(default_factory=list)
    _lost: ExchangeError | None = None

    def __post_init__(self) -> None:
        start = time.monotonic()
        self._limit_s = max(0.0, self.deadline - start)
        self.until = self.deadline - margin_s(self._limit_s) if self._others() else self.deadline + _GRACE_S
        if self.reader in self.without:
            self.until = start

    @property
    def device_limit_s(self) -> float:
        """The devices' time limit: shorter than the client's, so that there is time for a fallback."""
        return self._limit_s - margin_s(self._limit_s) * (2 if self._others() else 1)

    @property
    def left_s(self) -> float:
        """Remaining time to wait for the next event."""
        return max(0.0, self.until - time.monotonic())

    @property
    def silent(self) -> frozenset[int]:
        """Devices that did not deliver in time and did not report why."""
        silent = {missing.source for missing in self._missing}
        if self.recalled and self._answer is None:
            silent |= {self.reader, *(self.recalled - self._own.keys())}
        return frozenset(silent - self.without - self._failed)

    @property
    def of_no_use(self) -> frozenset[int]:
        """Devices that did not do their part of the request."""
        return self.without | self._failed | {missing.source for missing in self._missing}

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
        if rank != self.reader:
            self._own[rank] = event
            self.done |= self._nobody_left()
        elif isinstance(event, PartialData) and not self.without and not self._missing:
            self._answer, self.until = event, min(self.until, time.monotonic() + _DETAILS_S)
        else:
            self._answer, self.done = event, True

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
        if rank == self.reader:
            if isinstance(event, Failed):
                self._reports = [event]
            else:
                self._lost = event
            if not self.recalled:
                self.until = time.monotonic()  # the others are recalled now
        self.done |= self._nobody_left()

    def _others(self) -> frozenset[int]:
        """Devices that could answer instead of the reader."""
        return self.heads - {self.reader} - self.without - self._failed if self.tolerant else frozenset()

    def _nobody_left(self) -> bool:
        return bool(self.recalled) and self.recalled <= self._own.keys() | self._failed

    def fall_back(self) -> frozenset[int]:
        """The reader did not answer in time: returns the devices to recall, which are then awaited; none if there is no
        other head."""
        if self.recalled or self._answer is not None:
            return frozenset()
        self.recalled = self._others()
        if self.recalled:
            # a head that was not awaited while its answer was expected is given a moment too
            self.until = max(self.deadline + _GRACE_S, time.monotonic() + margin_s(self._limit_s))
            self.done = self._nobody_left()
        return self.recalled

    def answer(self, connections: DeviceConnections, decode: Callable[[Payload], Array]) -> Answer:
        """The decoded answer: the reader's, or the mean of recalled heads; raises the error that takes its place."""
        missing, without = tuple(self._missing), self.without
        if self._answer is not None:
            complete = not (missing or without or isinstance(self._answer, PartialData))
            return Answer(decode(self._answer.payload), complete, missing, tuple(sorted(without)))
        if own := dict(self._decoded(decode)):
            without |= {self.reader} | (self.recalled - own.keys())
            return Answer(_mean(own), False, missing, tuple(sorted(without)))
        if self._reports:
            raise connections.explain(self._reports, self._lost, ends_session=not self.tolerant)
        if self._lost is not None:
            raise again(self._lost) if self.tolerant else connections.end(self._lost)
        doing = f"working on request {self.request} ({self._limit_s:g} s)"
        raise connections.late(self.recalled or {self.reader}, doing)

    def _decoded(self, decode: Callable[[Payload], Array]) -> Iterator[tuple[int, Array]]:
        for rank, event in self._own.items():
            with contextlib.suppress(RemoteError, RemoteProtocolError):  # an invalid answer is left out
                yield rank, decode(event.payload)


def _mean(logits: Mapping[int, Array]) -> Array:
    """Added in the order of ranks: rounding does not depend on the order of arrival."""
    first, *others = (logits[rank] for rank in sorted(logits))
    total = first.copy()
    for each in others:
        total += each
    total /= len(logits)
    return total
