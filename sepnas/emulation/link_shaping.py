"""Links of an emulated cluster: every message is delivered at the time at which it would arrive there.

The sender writes the due time of a message to a file that all processes share; the receiver holds the message until
then. The time of the real connection thus counts as part of the emulated time; a message for which it is longer counts
as late. Only messages with tensors are shaped: all other frames cost nothing and keep their place in the order of their
connection.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from sepnas.emulation.pace import Lateness, sleep_until
from sepnas.emulation.shared_clock import RING, WORDS, SharedClock, Written, transmit, write
from sepnas.errors import ExchangeError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import Control, Data
from sepnas.runtime.transport.delivery import Fail, LinkTiming, Take
from sepnas.spec.emulation import EmulatedLink, Emulation

_Held: TypeAlias = tuple[int, Control | Data] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """The place of a message in a queue of the sender."""

    frame_bytes: int
    written: Written


class _Queue:
    """One port, radio or cable of this device: messages leave one after another, in the order of posting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tickets: deque[_Ticket] = deque()
        self.free_ns = 0

    def join(self, ticket: _Ticket) -> None:
        with self._changed:
            self._tickets.append(ticket)

    @contextmanager
    def turn(self, ticket: _Ticket) -> Iterator[None]:
        """Wait for all tickets in front; the next one may go when the block ends."""
        with self._changed:
            while self._tickets[0] is not ticket:
                self._changed.wait()
        try:
            yield
        finally:
            self.leave([ticket])

    def leave(self, tickets: list[_Ticket]) -> None:
        with self._changed:
            for ticket in tickets:
                self._tickets.remove(ticket)
            self._changed.notify_all()


class ShapedLink:
    """Both directions of one connection over an emulated link."""

    def __init__(self, shaper: Shaper, link: EmulatedLink, seed: int) -> None:
        self._shaper, self._link, self._queue = shaper, link, shaper.queue(link.queue)
        self._random = random.Random(seed)
        self._out, self._in = shaper.clock.ring(shaper.rank, link.peer), shaper.clock.ring(link.peer, shaper.rank)
        self._num_out = self._num_in = self._latest_ns = 0
        self._tickets: deque[_Ticket] = deque()
        self._lock, self._abandoned = threading.Lock(), False
        self._held: queue.SimpleQueue[_Held] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, take: Take, fail: Fail) -> None:
        self._thread = threading.Thread(target=self._hand_on, args=(take, fail), name="deliver", daemon=True)
        self._thread.start()

    def post(self, frame_bytes: int) -> None:
        with self._lock:
            if self._abandoned:  # its turn would never end
                return
            ticket = _Ticket(frame_bytes, self._shaper.write(self._link, frame_bytes))
            self._tickets.append(ticket)
            self._queue.join(ticket)

    def depart(self) -> None:
        ticket, link, kernel = self._tickets.popleft(), self._link, self._shaper.kernel
        with self._queue.turn(ticket):
            start_ns = max(ticket.written.first_ns, self._queue.free_ns)
            if kernel or link.resources:  # the medium is shared, or the kernel counts from now
                sleep_until(start_ns, punctual=kernel)
            size, written_ns = ticket.frame_bytes, ticket.written.all_ns
            left_ns, read_ns = self._shaper.clock.carry(link, start_ns, written_ns, size)
            self._queue.free_ns = transmit(link, start_ns, written_ns, size) if link.buffered else left_ns
        self._note(read_ns)

    def _note(self, read_ns: int) -> None:
        """Write the due time of a message, before it can arrive."""
        late_s = self._link.jitter_s * self._random.expovariate(1)
        travel_ns = round(1e9 * (self._link.latency_s + late_s)) if self._shaper.kernel else 0
        place = WORDS * (self._num_out % RING)
        self._out[place], self._out[place + 1] = read_ns + round(1e9 * late_s), travel_ns
        self._num_out += 1

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            self._queue.leave(list(self._tickets))
            self._tickets.clear()

    def deliver(self, event: Control | Data) -> None:
        due_ns = 0
        if isinstance(event, Data):
            place = WORDS * (self._num_in % RING)
            self._num_in += 1
            due_ns, arrived_ns = self._in[place], time.monotonic_ns() + self._in[place + 1]
            self._shaper.timed.add(arrived_ns - due_ns)
            self._latest_ns = due_ns = max(due_ns, arrived_ns, self._latest_ns)
            event = replace(event, arrived_ns=due_ns)
        self._held.put((due_ns, event))

    def close(self) -> None:
        self._held.put(None)
        if self._thread is not None:
            self._thread.join()

    def _hand_on(self, take: Take, fail: Fail) -> None:
        punctual = self._shaper.rank == CLIENT  # the client reads its clock; devices use the due time
        try:
            while (held := self._held.get()) is not None:
                due_ns, event = held
                sleep_until(due_ns, punctual)
                take(event)
        except ExchangeError as error:
            fail(error)


class Shaper:
    """The links of one process of an emulation; ``now_ns`` is the emulated time of its device.

    Raises :class:`SpecError` if the emulation's clock file is missing.
    """

    def __init__(self, emulation: Emulation, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._emulation, self._now_ns = emulation, now_ns
        self.rank, self.kernel = emulation.rank, emulation.shaping == "netns"
        self.clock = SharedClock(emulation.clock, emulation.num_devices, emulation.num_resources)
        self.timed = Lateness()
        self._links = {link.peer: link for link in emulation.links}
        self._queues: dict[int, _Queue] = {}
        self._lock = threading.Lock()
        self._writer_free_ns = 0

    def lateness(self) -> dict[str, float]:
        return self.timed.to_data()

    def close(self) -> None:
        self.clock.close()

    def link(self, peer: int) -> LinkTiming | None:
        """The delivery of a new connection to ``peer``; None for one that is not shaped."""
        link, emulation = self._links.get(peer), self._emulation
        if link is None:
            return None
        return ShapedLink(self, link, seed=emulation.seed * (emulation.num_devices + 1) + peer + 1)

    def queue(self, number: int) -> _Queue:
        with self._lock:
            return self._queues.setdefault(number, _Queue())

    def write(self, link: EmulatedLink, frame_bytes: int) -> Written:
        """The writing times of a message that is posted now, after all earlier ones of this device."""
        with self._lock:
            written = write(link, self._now_ns(), self._writer_free_ns, frame_bytes)
            self._writer_free_ns = written.all_ns
        return written
