"""Links of an emulated cluster: every message arrives when it would have arrived there.

The sender notes in a file that all processes share when a message is due; the receiver holds the message until then.
What the real connection needs thus passes within the emulated time, and is not added to it; where it needs more, the
message counts as late. Messages of tensors are shaped; all other frames cost nothing, and only keep their place in
the order of their connection.
"""

from __future__ import annotations

import mmap
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeAlias

from sepnas.cost.routes import Route, Threads, carry_along
from sepnas.errors import ExchangeError, SpecError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.events import Control, Data
from sepnas.runtime.pace import Lateness, sleep_until
from sepnas.spec.emulation import EmulatedLink, Emulation

RING = 4096
"""So many messages may be under way between two ranks; a session has far fewer, for it runs one request at a time."""
_WORDS = 2
"""Of a message in a ring: when it is due, and how long it travels after it has left the kernel's links."""
_WORD_BYTES = 8

Take: TypeAlias = Callable[[Control | Data], None]
Fail: TypeAlias = Callable[[ExchangeError], None]
_Held: TypeAlias = tuple[int, Control | Data] | None


class Way(Protocol):
    """What a channel does with messages on their way to the peer and from it."""

    def open(self, take: Take, fail: Fail) -> None:
        """Where events go that have arrived, and what is called once if that raises."""

    def post(self, frame_bytes: int) -> None:
        """A message of so many bytes is sent; called in the order of sending."""

    def deliver(self, event: Control | Data) -> None:
        """An event has come; it is handed on in order, each when it is due."""

    def close(self) -> None:
        """Hand on what is still held, and return when that is done."""


class FreeWay:
    """Nothing is emulated: events are handed on as they come."""

    def __init__(self) -> None:
        self._take: Take = lambda event: None

    def open(self, take: Take, fail: Fail) -> None:
        self._take = take

    def post(self, frame_bytes: int) -> None:
        pass

    def deliver(self, event: Control | Data) -> None:
        self._take(event)

    def close(self) -> None:
        pass


class Clock:
    """The file that the processes of an emulation share: when each resource is free, and when messages are due.

    Times are those of ``time.monotonic_ns``, which all processes of a machine have in common.
    """

    def __init__(self, path: str | os.PathLike[str], num_devices: int, num_resources: int) -> None:
        """Open a clock that :meth:`create` made; :class:`SpecError` when there is none, or one of another cluster."""
        self._num_ranks, self._num_resources = num_devices + 1, num_resources
        try:
            self._file = Path(path).open("r+b")  # noqa: SIM115 - it stays open
        except OSError as error:
            raise SpecError(f"{path}: the clock of the emulation cannot be opened: {error.strerror}") from None
        wanted, found = _clock_bytes(num_devices, num_resources), os.fstat(self._file.fileno()).st_size
        if wanted != found:
            self._file.close()
            raise SpecError(f"{path}: the clock of this emulation has {wanted} bytes, the file has {found}")
        self._map = mmap.mmap(self._file.fileno(), wanted)
        self._words = memoryview(self._map).cast("q")
        self._lock = threading.Lock()  # the file's lock is between processes, and does not hold a second thread up

    @staticmethod
    def create(path: str | os.PathLike[str], num_devices: int, num_resources: int) -> None:
        """A clock for so many devices and a client, with nothing on its way."""
        with Path(path).open("wb") as file:
            file.truncate(_clock_bytes(num_devices, num_resources))

    def close(self) -> None:
        """Nothing may be posted any more; what is under way still arrives."""
        self._file.close()

    def carry(self, route: Route, posted_ns: int, frame_bytes: int) -> int:
        """Occupy what a message needs, after the others who asked before; when it can be taken.

        Who asks first is first; the simulator lets messages take turns by tag.
        """
        import fcntl  # a machine without it can still be a real device

        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                _, arrival_s = carry_along(route, posted_ns / 1e9, frame_bytes, _FreeAt(self._words))
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return round(arrival_s * 1e9)

    def ring(self, source: int, destination: int) -> memoryview:
        """The notes about the messages from one rank to another, which only that one's sender writes."""
        place = (source + 1) * self._num_ranks + destination + 1
        start = self._num_resources + place * RING * _WORDS
        return self._words[start : start + RING * _WORDS]


class _FreeAt:
    """The clock's resources, in seconds; a word of 0 was never used."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def get(self, resource: int, default: float, /) -> float:
        free_s: float = self._words[resource] / 1e9
        return free_s or default

    def __setitem__(self, resource: int, free_s: float, /) -> None:
        self._words[resource] = round(free_s * 1e9)


def _clock_bytes(num_devices: int, num_resources: int) -> int:
    return _WORD_BYTES * (num_resources + (num_devices + 1) ** 2 * RING * _WORDS)


class ShapedWay:
    """Both directions of one connection, as the emulated link has them.

    Args:
        clock: the emulation's.
        rank: this end.
        link: the other end, and what a message there takes.
        kernel: the kernel shapes the link too: latency comes after what that took.
        lateness: where messages that come are counted.
        now_ns: the moment on this end's device.
    """

    def __init__(
        self,
        clock: Clock,
        rank: int,
        link: EmulatedLink,
        kernel: bool,
        seed: int,
        lateness: Lateness,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock, self._route, self._kernel, self._lateness = clock, route_of(link), kernel, lateness
        self._random, self._now_ns, self._punctual = random.Random(seed), now_ns, rank == CLIENT
        self._out, self._in = clock.ring(rank, link.peer), clock.ring(link.peer, rank)
        self._num_out = self._num_in = self._latest_ns = 0
        self._held: queue.SimpleQueue[_Held] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, take: Take, fail: Fail) -> None:
        self._thread = threading.Thread(target=self._hand_on, args=(take, fail), name="deliver", daemon=True)
        self._thread.start()

    def post(self, frame_bytes: int) -> None:
        route = self._route
        late_s = route.jitter_s * self._random.expovariate(1)
        due_ns = self._clock.carry(route, self._now_ns(), frame_bytes) + round(1e9 * late_s)
        place = _WORDS * (self._num_out % RING)
        travel_ns = round(1e9 * (route.latency_s + late_s)) if self._kernel else 0
        self._out[place], self._out[place + 1] = due_ns, travel_ns
        self._num_out += 1

    def deliver(self, event: Control | Data) -> None:
        due_ns = 0
        if isinstance(event, Data):
            place = _WORDS * (self._num_in % RING)
            self._num_in += 1
            due_ns, arrived_ns = self._in[place], time.monotonic_ns() + self._in[place + 1]
            self._lateness.add(arrived_ns - due_ns)
            due_ns = max(due_ns, arrived_ns, self._latest_ns)
            self._latest_ns, event = due_ns, replace(event, arrived_ns=due_ns)
        self._held.put((due_ns, event))

    def close(self) -> None:
        self._held.put(None)
        if self._thread is not None:
            self._thread.join()

    def _hand_on(self, take: Take, fail: Fail) -> None:
        try:
            while (held := self._held.get()) is not None:
                due_ns, event = held
                sleep_until(due_ns, self._punctual)
                take(event)
        except ExchangeError as error:
            fail(error)


class Shaper:
    """The links of one process of an emulation; ``now_ns`` is the moment on its device.

    Raises :class:`SpecError` when the emulation's clock is not there.
    """

    def __init__(self, emulation: Emulation, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._emulation, self._now_ns = emulation, now_ns
        self._clock = Clock(emulation.clock, emulation.num_devices, emulation.num_resources)
        self._links = {link.peer: link for link in emulation.links}
        self.lateness = Lateness()

    def close(self) -> None:
        self._clock.close()

    def way(self, peer: int) -> Way:
        """A way for a new connection to ``peer``; free when nothing is said about it."""
        link, emulation = self._links.get(peer), self._emulation
        if link is None:
            return FreeWay()
        seed = emulation.seed * (emulation.num_devices + 1) + peer + 1
        kernel = emulation.shaping == "netns"
        return ShapedWay(self._clock, emulation.rank, link, kernel, seed, self.lateness, self._now_ns)


def route_of(link: EmulatedLink) -> Route:
    """The link as the simulator has it."""
    return Route(
        resources=link.resources,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
        latency_s=link.latency_s,
        message_overhead_s=link.message_overhead_s,
        jitter_s=link.jitter_s,
        threads=None if link.threads is None else Threads(**link.threads.model_dump()),
    )
