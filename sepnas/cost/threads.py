"""Times of a message in the writer and reader threads: one formula for the simulator and for an emulation."""

from __future__ import annotations

from typing import Protocol

from sepnas.plan.wire import PIECE_BYTES


class ThreadTimes(Protocol):
    """Seconds per message and per byte, in the writer thread and in the reader thread."""

    @property
    def write_message_s(self) -> float: ...
    @property
    def write_byte_s(self) -> float: ...
    @property
    def read_message_s(self) -> float: ...
    @property
    def read_byte_s(self) -> float: ...


def write(times: ThreadTimes, posted_s: float, free_s: float, wire_bytes: int) -> tuple[float, float]:
    """When the first piece is written, and when the whole message is; the thread is free from ``free_s`` on."""
    began_s = max(posted_s, free_s) + times.write_message_s
    return began_s + min(wire_bytes, PIECE_BYTES) * times.write_byte_s, began_s + wire_bytes * times.write_byte_s


def read(times: ThreadTimes, arrived_s: float, free_s: float, wire_bytes: int) -> float:
    """When a message is read: after its last piece has arrived, and once the thread has had time for all of it."""
    last_s = arrived_s + times.read_message_s + min(wire_bytes, PIECE_BYTES) * times.read_byte_s
    return max(last_s, free_s + times.read_message_s + wire_bytes * times.read_byte_s)
