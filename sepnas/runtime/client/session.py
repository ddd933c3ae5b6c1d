"""The client: opens a session with the devices of a deployment and asks them."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, get_args

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from sepnas.deployment.manifest import OnMissing
from sepnas.deployment.serial import message_from_data
from sepnas.deployment.verify import verify_client
from sepnas.errors import (
    DataError,
    DeadlineError,
    ExchangeError,
    HandshakeError,
    LocalProtocolError,
    RemoteError,
    RemoteProtocolError,
    SpecError,
    again,
)
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.connections import Fleet
from sepnas.runtime.client.images import normalise
from sepnas.runtime.client.inboxes import Arrival, Inbox
from sepnas.runtime.client.keeper import Keeper
from sepnas.runtime.client.reply import Answer, Reply
from sepnas.runtime.client.trace import Trace, request_record
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.runtime.protocol.events import Cancel, Data, Failed, Recall, Request
from sepnas.runtime.tensors.codec import Array, Payload, decode, encode
from sepnas.runtime.transport.counters import Counters, join_links
from sepnas.runtime.transport.delivery import Ways
from sepnas.runtime.transport.handshake import check_loopback, warn_of_loopback
from sepnas.runtime.transport.live_identity import client_identity
from sepnas.spec.hosts import Hosts, parse_address

DEFAULT_DEADLINE_S = 10.0
MAX_IN_FLIGHT = 32
"""A request waits until the oldest that is open is so few before it: devices keep what comes for so many."""
MAX_TRACES = 256
MAX_DEADLINE_S = 86_400


class Session:
    """A client's connections to the devices of a deployment; use it as a context manager.

    Args:
        deployment: the deployment's folder (its manifest and ``client/`` are enough).
        devices: where the devices listen: a :class:`Hosts`, a path to a hosts file, or None for the
            deployment's own ``hosts.yaml``.
        deadline_s: how long opening the session may take, and then each request; at most a day.
        insecure: plain TCP; on loopback addresses only.
        ways: the client's links of a cluster that is emulated.
        on_missing: what becomes of a request when a message is late or a device lost: ``strict`` an error, ``degrade``
            an answer without it; by default what was said at the export.
        reconnect: whether a strict session whose device was lost connects to all of them again, in the background and
            as often as it takes; one that degrades always dials what it has lost.

    Raises:
        SpecError: a deadline that is none, or an address that is missing.
        DeploymentError: a file of the deployment was changed.
        PeerUnreachableError: nobody answers at a device's address.
        HandshakeError: foreign or expired certificate, another deployment or version, or the device is busy.
        DeadlineError: a device did not answer in time.

    After :class:`DeadlineError` and :class:`RemoteError` the session can be used further. After :class:`PeerLostError`
    a strict session is over, and every call raises it: open a new one, or use ``reconnect``, which raises it until the
    devices are back. A session that degrades goes on, and begins without devices that are down.

    Threads may share a session; each device works on one request at a time, in the order in which they were sent. A
    process that is forked may not use it (:class:`LocalProtocolError`), nor can it be pickled. One that is dropped
    without :meth:`close` is closed.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        insecure: bool = False,
        ways: Ways | None = None,
        on_missing: OnMissing | None = None,
        reconnect: bool = False,
    ) -> None:
        self.deadline_s = _checked_deadline_s(deadline_s)
        folder = Path(deployment)
        self.manifest = verify_client(folder, uses_hosts=devices is None)
        self.on_missing = _checked_on_missing(on_missing or self.manifest.on_missing)
        """``strict`` or ``degrade``."""
        hosts = devices if isinstance(devices, Hosts) else Hosts.load(devices or folder / "hosts.yaml")
        messages = [message_from_data(data) for data in self.manifest.messages]
        self._inputs = [message for message in messages if message.source == CLIENT]
        self._output = next(message for message in messages if message.destination == CLIENT)
        ranks = [message.destination for message in self._inputs]
        warn_of_loopback({each.rank: each.address for each in hosts.devices if each.rank in ranks})
        if insecure:
            _allow_insecure(hosts, ranks)
        identity = None if insecure else client_identity(folder, self.manifest)
        self._heads = self.manifest.heads
        answering = self._heads if self.on_missing == "degrade" else {self._output.source}
        answer_bytes = {self._output.tag: self._output.payload_bytes()}
        expected = {rank: answer_bytes if rank in answering else {} for rank in ranks}
        self._lock = threading.Lock()
        """Of what is sent: requests must come to all devices in one order, and one question at a time."""
        self._open_changed = threading.Condition()
        self._open: set[int] = set()
        self._last_request = self._requests_before = 0
        self._spans: OrderedDict[int, tuple[int, int, int]] = OrderedDict()
        self._origin_ns = time.monotonic_ns()
        self._ways = ways
        open_fleet = partial(
            Fleet, self.manifest.deployment_id, expected, hosts, identity, ways=ways,
            on_missing=self.on_missing, reconnect=reconnect,
        )  # fmt: skip
        try:
            self._keeper = Keeper(open_fleet, time.monotonic() + deadline_s, reconnect and self.on_missing == "strict")
        except HandshakeError as error:
            raise _explain_refusal(error, self.manifest.deployment_id) from error
        _open_keepers[self._keeper] = self.manifest.deployment_id
        self._last_fleet = self._keeper.fleet
        self._drop = weakref.finalize(self, _drop, self._keeper, ways)
        self._drop.atexit = False  # the system closes what is open then, and threads cannot be started

    @property
    def _fleet(self) -> Fleet:
        """The connections now; raises :class:`LocalProtocolError` in a process that was forked."""
        return self._keeper.fleet

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a session cannot be copied or sent to another process; open one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave all devices; never waits long. In a process that was forked only its descriptors are closed."""
        self._drop.detach()
        self._keeper.close()
        if self._ways is not None and not self._keeper.is_elsewhere():
            self._ways.close()

    def infer(self, batch: npt.ArrayLike, deadline_s: float | None = None) -> Array:
        """The logits ``(B, classes)``, float32, of a batch ``(B, channels, size, size)``.

        A float32 batch is taken as it is (normalised already); uint8 images are normalised by the manifest. What is
        missing in an answer of a session that degrades, :meth:`ask` says.

        Raises:
            DataError: another shape or type.
            SpecError: a deadline that is none.
            DeadlineError: the answer was not there after ``deadline_s`` (by default the session's). What waits behind
                other requests waits within its deadline.
            PeerLostError: a device went away.
            RemoteError: a device failed while it computed.
        """
        return self.ask(batch, deadline_s).logits

    def ask(self, batch: npt.ArrayLike, deadline_s: float | None = None) -> Answer:
        """The logits with what is missing in them; raises as :meth:`infer` does."""
        inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        return self._wait(self.begin(batch, inbox, deadline_s), inbox)

    def stream(
        self, batches: Iterable[npt.ArrayLike], in_flight: int = 2, deadline_s: float | None = None
    ) -> Generator[Array]:
        """The logits of each batch, in order, while up to ``in_flight`` requests (at most 32) are on their way.

        Devices compute one request while messages of others travel, so that more of them are answered in a second; each
        takes longer. The next batch is taken when an answer was handed on. Raises what :meth:`infer` does; what is on
        its way then, or when the iterator is closed, is cancelled.
        """
        return self._logits_of(self.answers(batches, in_flight, deadline_s))

    def answers(
        self, batches: Iterable[npt.ArrayLike], in_flight: int = 2, deadline_s: float | None = None
    ) -> Generator[Answer]:
        """A stream with what is missing in each answer."""
        return self._answers(batches, checked_in_flight(in_flight), deadline_s)

    def _logits_of(self, answers: Generator[Answer]) -> Generator[Array]:
        with contextlib.closing(answers):
            for answer in answers:
                yield answer.logits

    def _answers(self, batches: Iterable[npt.ArrayLike], in_flight: int, deadline_s: float | None) -> Generator[Answer]:
        window: deque[tuple[Reply, queue.SimpleQueue[Arrival]]] = deque()
        try:
            for batch in batches:
                inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
                window.append((self.begin(batch, inbox, deadline_s), inbox))
                if len(window) == in_flight:
                    yield self._wait(*window.popleft())
            while window:
                yield self._wait(*window.popleft())
        finally:
            for reply, _ in window:
                self.abandon(reply)

    def classify(self, images: npt.ArrayLike, deadline_s: float | None = None) -> list[str]:
        """The class names of a batch, one for each image."""
        best = self.infer(images, deadline_s).argmax(axis=1)
        return [self.manifest.classes[index] for index in best]

    def health(self) -> dict[int, str]:
        """Of each device: ``ready``, ``silent`` (it has not answered a ping for some seconds, or was late and has not
        answered one since), how its requests fail, or how it was lost. Devices are pinged once a second."""
        return self._fleet.health()

    def lost(self) -> dict[int, str]:
        """The devices that are lost, and how."""
        return self._fleet.lost_devices()

    def can_answer(self) -> bool:
        """Whether requests have a chance: all devices are ready or, in a session that degrades, one with the classifier
        is."""
        useless = self._fleet.useless().keys()
        return not useless if self.on_missing == "strict" else not self._heads <= useless

    def is_failing(self) -> bool:
        """Whether requests fail on a device, as far as the last ones tell."""
        return self._fleet.is_failing

    @property
    def is_over(self) -> bool:
        """Whether no request will be answered any more, unless the session connects again."""
        return self._fleet.is_over

    def counters(self) -> Counters:
        """What all ends of all connections counted since the session was opened, or last connected again."""
        fleet = self._fleet
        with self._lock:
            self._note_fleet(fleet)
            answers = fleet.ask("counters", 0, time.monotonic() + self.deadline_s)
            reports = {rank: data["links"] for rank, data in answers.items()} | {CLIENT: fleet.traffic()}
            return Counters(self._last_request - self._requests_before, join_links(reports))

    def lateness(self) -> dict[int, dict[str, dict[str, float]]]:
        """Of each rank that emulates: how many of its ``steps`` and ``messages`` were ``timed`` and came ``late``."""
        fleet = self._fleet
        with self._lock:
            answers = fleet.ask("counters", 0, time.monotonic() + self.deadline_s)
        found = {rank: data["emulated"] for rank, data in answers.items() if "emulated" in data}
        return found | ({CLIENT: {"messages": self._ways.lateness()}} if self._ways else {})

    def trace(self, last: int = 1) -> Trace:
        """When each device did what in the last requests, at most 256, on this machine's clock."""
        if not 0 < last <= MAX_TRACES:
            raise DataError(f"`last` must lie in 1..{MAX_TRACES}, got {last}")
        fleet = self._fleet
        with self._lock:
            self._note_fleet(fleet)
            deadline = time.monotonic() + self.deadline_s
            with self._open_changed:
                spans = sorted(self._spans.items())[-last:]
            depth = self._last_request - spans[0][0] + 1 if spans else 0  # devices also keep requests that failed here
            answers = fleet.ask("trace", depth, deadline)
            clocks = {rank: fleet.clock(rank, deadline) for rank in answers}
        rows = {(rank, r["request"]): r["steps"] for rank, data in answers.items() for r in data["requests"]}
        records = (request_record(number, span, rows, clocks, self._origin_ns) for number, span in spans)
        return Trace(deployment_id=self.manifest.deployment_id, requests=tuple(records))

    def _prepare(self, batch: npt.NDArray[np.generic]) -> Array:
        image = self.manifest.input
        wanted = (image.channels, image.size, image.size)
        if batch.ndim != 4 or batch.shape[1:] != wanted or not 1 <= len(batch) <= MAX_BATCH:
            raise DataError(f"a batch must have the shape (1..{MAX_BATCH}, {str(wanted)[1:]}, got {batch.shape}")
        if batch.dtype == np.uint8:
            return normalise(batch.astype(np.uint8, copy=False), image)
        if batch.dtype != np.float32:
            raise DataError(f"a batch must be float32 (normalised) or uint8 (images), got {batch.dtype}")
        _check_finite(batch)
        return batch.astype(np.float32)  # a copy: the caller may fill the same array with the next batch

    def begin(self, batch: npt.ArrayLike, inbox: Inbox, deadline_s: float | None = None) -> Reply:
        """Send a request whose answer comes to ``inbox``; every reply must be ended by :meth:`finish` or
        :meth:`abandon`. Waits only where too many are open. Raises as :meth:`infer` does."""
        self._keeper.fleet.check()  # before anything takes a lock, which a process that was forked may find taken
        x_BCHW = self._prepare(np.asarray(batch))
        limit_s = self.deadline_s if deadline_s is None else _checked_deadline_s(deadline_s)
        due = time.monotonic() + limit_s
        if not self._lock.acquire(timeout=limit_s):
            raise DeadlineError(f"other threads kept the session busy for {limit_s:g} s")
        try:
            self._note_fleet(fleet := self._fleet)
            fleet.check()
            reply = self._new_reply(fleet, len(x_BCHW), due)
            try:
                self._send(reply, x_BCHW, inbox)
            except BaseException:
                self.abandon(reply)
                raise
            return reply
        finally:
            self._lock.release()

    def _note_fleet(self, fleet: Fleet) -> None:
        """Devices know nothing of what was asked through other connections; the lock is held."""
        if fleet is not self._last_fleet:
            self._last_fleet, self._requests_before = fleet, self._last_request
            with self._open_changed:
                self._spans.clear()

    def _new_reply(self, fleet: Fleet, batch: int, due: float) -> Reply:
        request, reader = self._reserve(due), self.manifest.reader
        if self.on_missing == "strict":
            return Reply(request, batch, reader, due, fleet=fleet)
        without = fleet.absent()
        if self._heads <= without:  # nobody else can answer: those that are only slow must be asked
            without = fleet.gone()
        return Reply(request, batch, reader, due, without, tolerant=True, heads=self._heads, fleet=fleet)

    def fall_back(self, reply: Reply) -> bool:
        """The reader is late: ask the others for their own logits; False when that is no way out."""
        fleet, recalled = self._fleet_of(reply), reply.fall_back()
        for rank in recalled:
            fleet.send(rank, Recall(request=reply.request, tag=self._output.tag))
        return bool(recalled)

    def finish(self, reply: Reply) -> Answer:
        """The answer, when nothing more is waited for; raises what there is instead."""
        fleet = self._fleet_of(reply)
        try:
            answer = reply.answer(fleet, lambda payload: self._logits(payload, reply.batch))
        except BaseException:
            self.abandon(reply)
            raise
        finally:
            with contextlib.suppress(ExchangeError):
                for rank in reply.silent:
                    fleet.suspect(rank)
        fleet.note_served(set(fleet.ranks) - reply.of_no_use)
        self._release(reply)
        if not answer.complete:
            self._cancel(reply)  # who was late need not go on with it
        self._remember(reply)
        return answer

    def abandon(self, reply: Reply) -> None:
        """Tell the devices that nobody waits for it."""
        if not self._keeper.is_elsewhere():
            self._release(reply)
            self._cancel(reply)

    def _fleet_of(self, reply: Reply) -> Fleet:
        """Raises as :attr:`_fleet` does."""
        return self._fleet if reply.fleet is None else self._keeper.here(reply.fleet)

    def _cancel(self, reply: Reply) -> None:
        for message in self._inputs:
            if message.destination not in reply.without:  # a frozen device must not find a heap of them
                with contextlib.suppress(ExchangeError):
                    self._fleet_of(reply).send(message.destination, Cancel(request=reply.request))

    def _reserve(self, due: float) -> int:
        """The next request's number; the lock is held, so that requests are sent in the order of their numbers."""
        with self._open_changed:
            if not self._open_changed.wait_for(self._has_room, max(0.0, due - time.monotonic())):
                raise DeadlineError(
                    f"request {min(self._open)} is not answered and {len(self._open) - 1} wait behind it; "
                    "is a device overloaded?"
                )
            self._last_request += 1
            self._open.add(self._last_request)
            return self._last_request

    def _has_room(self) -> bool:
        return not self._open or self._last_request + 1 - min(self._open) < MAX_IN_FLIGHT

    def _release(self, reply: Reply) -> None:
        self._fleet_of(reply).forget(reply.request)
        self._make_room(reply.request)

    def _make_room(self, request: int) -> None:
        """The devices are done with it."""
        with self._open_changed:
            self._open.discard(request)
            self._open_changed.notify_all()

    def _send(self, reply: Reply, x_BCHW: Array, inbox: Inbox) -> None:
        fleet = self._fleet_of(reply)
        if self._heads <= reply.without:
            fleet.check_rank(reply.reader)
        order = Request(
            request=reply.request,
            batch=reply.batch,
            deadline_ms=max(1, int(reply.device_limit_s * 1e3)),
            without=tuple(sorted(reply.without)),
        )
        payload = encode(x_BCHW, "fp32")
        most_bytes = {self._output.tag: self._output.payload_bytes(reply.batch)}
        fleet.follow(reply.request, _Watched(inbox, lambda: self._make_room(reply.request)), most_bytes)
        for message in self._inputs:
            if message.destination not in reply.without:
                fleet.send(message.destination, order, Data(reply.request, message.tag, payload))

    def _wait(self, reply: Reply, inbox: queue.SimpleQueue[Arrival]) -> Answer:
        self._fleet_of(reply)  # in a process that was forked nothing would ever come
        try:
            while not reply.done:
                try:
                    reply.take(inbox.get(timeout=reply.left_s))
                except queue.Empty:
                    if not self.fall_back(reply):
                        break
        except BaseException:
            self.abandon(reply)
            raise
        return self.finish(reply)

    def _logits(self, payload: Payload, batch: int) -> Array:
        if len(payload) != self._output.payload_bytes(batch):
            raise RemoteProtocolError(
                f"the answer has {len(payload)} bytes; {self._output.payload_bytes(batch)} were due"
            )
        logits = decode(payload, self._output.wire, self._output.shape).reshape(batch, -1)
        if not np.isfinite(logits).all():
            raise RemoteError(
                "the devices' answer has numbers that are not finite (NaN or infinite): it names no class"
            )
        return logits

    def _remember(self, reply: Reply) -> None:
        with self._open_changed:
            self._spans[reply.request] = (reply.batch, reply.sent_ns, time.monotonic_ns())
            while len(self._spans) > MAX_TRACES:
                self._spans.popitem(last=False)


_open_keepers: weakref.WeakKeyDictionary[Keeper, str] = weakref.WeakKeyDictionary()
"""Those of this process' sessions, and the deployments they belong to."""


def _explain_refusal(error: HandshakeError, deployment_id: str) -> HandshakeError:
    """In a notebook the cell that opens a session is run again while the first one is held still."""
    keepers = [keeper for each in _open_keepers.keyrefs() if (keeper := each()) is not None]
    open_here = any(keeper.is_open() and _open_keepers.get(keeper) == deployment_id for keeper in keepers)
    if not (open_here and "(busy)" in str(error)):
        return again(error)
    return HandshakeError(f"{error}; this process itself has a session with the deployment open: close that one first")


def _drop(keeper: Keeper, ways: Ways | None) -> None:
    """Of a session that nobody holds any more; may run in any thread, whatever that is at."""
    keeper.drop(after=None if ways is None else ways.close)


class _Watched:
    """An inbox that says when the devices are done with its request, long before its owner may look."""

    def __init__(self, inbox: Inbox, done: Callable[[], None]) -> None:
        self._inbox, self._done = inbox, done

    def put(self, arrival: Arrival) -> None:
        self._inbox.put(arrival)
        if isinstance(arrival[1], Data | Failed | ExchangeError):
            self._done()


def _check_finite(batch_BCHW: npt.NDArray[np.generic]) -> None:
    finite = np.isfinite(batch_BCHW)
    if not finite.all():
        index = tuple(int(place[0]) for place in np.nonzero(~finite))
        raise DataError(
            f"image {index[0]} of the batch has {batch_BCHW[index]} at {index[1:]}; expected finite numbers"
        )


def checked_in_flight(in_flight: int) -> int:
    """The number itself; :class:`SpecError` when it is none."""
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
        raise SpecError(f"`in_flight` must lie in 1..{MAX_IN_FLIGHT}, got {in_flight!r}")
    return in_flight


def _checked_deadline_s(deadline_s: float) -> float:
    if not 0 < deadline_s <= MAX_DEADLINE_S:  # so that nan is refused too
        raise SpecError(f"`deadline_s` must be more than 0 and at most {MAX_DEADLINE_S} seconds, got {deadline_s!r}")
    return deadline_s


def _checked_on_missing(on_missing: OnMissing) -> OnMissing:
    if on_missing not in get_args(OnMissing):
        raise SpecError(f"`on_missing` must be one of {', '.join(get_args(OnMissing))}, got {on_missing!r}")
    return on_missing


def _allow_insecure(hosts: Hosts, ranks: list[int]) -> None:
    for rank in ranks:
        check_loopback(parse_address(hosts.address(rank))[0])
    warnings.warn("insecure session: plain TCP, nobody's identity is checked", stacklevel=3)
