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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from sepnas.errors import ExchangeError, SpecError
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
        """A message of so many bytes is sent now; called in the order of sending."""

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

    def occupy(self, resources: Sequence[int], duration_ns: int) -> int:
        """Take all of these together, after the others who asked before; when that ends.

        Who asks first is first; the simulator lets messages take turns by tag.
        """
        import fcntl  # a machine without it can still be a real device

        if not resources:
            return time.monotonic_ns() + duration_ns
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                start_ns = max(time.monotonic_ns(), *(self._words[resource] for resource in resources))
                for resource in resources:
                    self._words[resource] = start_ns + duration_ns
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return start_ns + duration_ns

    def ring(self, source: int, destination: int) -> memoryview:
        """The notes about the messages from one rank to another, which only that one's sender writes."""
        place = (source + 1) * self._num_ranks + destination + 1
        start = self._num_resources + place * RING * _WORDS
        return self._words[start : start + RING * _WORDS]


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
    """

    def __init__(self, clock: Clock, rank: int, link: EmulatedLink, kernel: bool, seed: int, lateness: Lateness):
        self._clock, self._link, self._kernel, self._lateness = clock, link, kernel, lateness
        self._random = random.Random(seed)
        self._out, self._in = clock.ring(rank, link.peer), clock.ring(link.peer, rank)
        self._num_out = self._num_in = 0
        self._held: queue.SimpleQueue[_Held] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, take: Take, fail: Fail) -> None:
        self._thread = threading.Thread(target=self._hand_on, args=(take, fail), name="deliver", daemon=True)
        self._thread.start()

    def post(self, frame_bytes: int) -> None:
        link = self._link
        occupied_s = link.message_overhead_s + frame_bytes / link.bandwidth_bytes_per_s
        travel_ns = round(1e9 * (link.latency_s + link.jitter_s * self._random.random()))
        due_ns = self._clock.occupy(link.resources, round(1e9 * occupied_s)) + travel_ns
        place = _WORDS * (self._num_out % RING)
        self._out[place], self._out[place + 1] = due_ns, travel_ns if self._kernel else 0
        self._num_out += 1

    def deliver(self, event: Control | Data) -> None:
        due_ns = 0
        if isinstance(event, Data):
            place = _WORDS * (self._num_in % RING)
            self._num_in += 1
            due_ns, arrived_ns = self._in[place], time.monotonic_ns() + self._in[place + 1]
            self._lateness.add(arrived_ns - due_ns)
            due_ns = max(due_ns, arrived_ns)
        self._held.put((due_ns, event))

    def close(self) -> None:
        self._held.put(None)
        if self._thread is not None:
            self._thread.join()

    def _hand_on(self, take: Take, fail: Fail) -> None:
        try:
            while (held := self._held.get()) is not None:
                due_ns, event = held
                sleep_until(due_ns)
                take(event)
        except ExchangeError as error:
            fail(error)


class Shaper:
    """The links of one process of an emulation.

    Raises :class:`SpecError` when the emulation's clock is not there.
    """

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
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
        return ShapedWay(self._clock, emulation.rank, link, emulation.shaping == "netns", seed, self.lateness)
