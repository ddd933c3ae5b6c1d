"""The file that the processes of an emulation share: when each resource is free, and when each message is due."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import NamedTuple

from sepnas.cost import threads
from sepnas.errors import ExchangeError, SpecError
from sepnas.spec.emulation import EmulatedLink

RING = 4096
"""Maximum number of messages under way between two ranks; a session has far fewer, for devices work on one request."""
WORDS = 2
"""Words of a message in a ring: its due time, and its travel time after the kernel's links, in ns."""
_WORD_BYTES = 8


class Written(NamedTuple):
    """The times at which a sender's thread has written the first piece and all of a message."""

    first_ns: int
    all_ns: int


def write(link: EmulatedLink, posted_ns: int, thread_free_ns: int, frame_bytes: int) -> Written:
    """The writing times of a message, once the thread is free."""
    if link.threads is None:
        return Written(posted_ns, posted_ns)
    return Written(*map(_ns, threads.write(link.threads, posted_ns / 1e9, thread_free_ns / 1e9, frame_bytes)))


def transmit(link: EmulatedLink, start_ns: int, written_ns: int, frame_bytes: int) -> int:
    """The time at which a message has left that starts at ``start_ns``."""
    wire_s = link.message_overhead_s + frame_bytes / link.bandwidth_bytes_per_s
    return max(start_ns + _ns(wire_s), written_ns)


def read(link: EmulatedLink, arrived_ns: int, thread_free_ns: int, frame_bytes: int) -> int:
    """The time at which the reading thread has taken an arrived message."""
    if link.threads is None:
        return arrived_ns
    return _ns(threads.read(link.threads, arrived_ns / 1e9, thread_free_ns / 1e9, frame_bytes))


class SharedClock:
    """The shared file. Times are those of ``time.monotonic_ns``, which all processes of a machine have in common."""

    def __init__(self, path: str | os.PathLike[str], num_devices: int, num_resources: int) -> None:
        """Open a clock that :meth:`create` made; raises :class:`SpecError` for none, or that of another cluster."""
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
        self._lock = threading.Lock()  # the file's lock does not exclude threads of one process

    @staticmethod
    def create(path: str | os.PathLike[str], num_devices: int, num_resources: int) -> None:
        """Create a clock for the devices and a client, without any message under way."""
        with Path(path).open("wb") as file:
            file.truncate(_clock_bytes(num_devices, num_resources))

    def close(self) -> None:
        """Nothing may be sent any more; what is under way still arrives."""
        with self._lock:
            self._file.close()

    def carry(self, link: EmulatedLink, start_ns: int, written_ns: int, frame_bytes: int) -> tuple[int, int]:
        """Occupy the shared resources of a message, after those who asked before; when it has left, and when it can
        be taken, jitter aside.

        Who asks first is first; the simulator does not let what links take decide that.
        """
        import fcntl  # a machine without it can still be a real device

        with self._lock:
            if self._file.closed:
                raise ExchangeError("the emulation is over")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                free_ns = max((self._words[resource] for resource in link.resources), default=0)
                left_ns = transmit(link, max(start_ns, free_ns), written_ns, frame_bytes)
                for resource in link.resources:
                    self._words[resource] = left_ns
                return left_ns, self._read(link, left_ns + _ns(link.latency_s), frame_bytes)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self, link: EmulatedLink, arrived_ns: int, frame_bytes: int) -> int:
        if link.threads is None:
            return arrived_ns
        reader = link.threads.reader
        self._words[reader] = read_ns = read(link, arrived_ns, self._words[reader], frame_bytes)
        return read_ns

    def ring(self, source: int, destination: int) -> memoryview:
        """The notes about the messages from one rank to another, which only that one's sender writes."""
        place = (source + 1) * self._num_ranks + destination + 1
        start = self._num_resources + place * RING * WORDS
        return self._words[start : start + RING * WORDS]


def _clock_bytes(num_devices: int, num_resources: int) -> int:
    return _WORD_BYTES * (num_resources + (num_devices + 1) ** 2 * RING * WORDS)


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)
