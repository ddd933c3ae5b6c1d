"""The bodies that clients are sending, with a bound on their total size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sepnas.errors import BusyError


class Body:
    """The bytes of one body that have arrived."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.data = bytearray()
        self.given_up = False

    def add(self, chunk: bytes) -> None:
        """Append a chunk; raises :class:`BusyError` when this body was dropped for others."""
        self.data += chunk
        self._bodies.make_room()
        if self.given_up:
            self.data.clear()
            raise BusyError("too many large images are being sent at once; try again in a moment")


class Bodies:
    """At most ``max_bytes`` in all incomplete bodies; beyond that the largest one is dropped, so that small images go
    on."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: set[Body] = set()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Body]:
        """A body that counts until the block ends."""
        body = Body(self)
        self._open.add(body)
        try:
            yield body
        finally:
            self._open.discard(body)

    def make_room(self) -> None:
        """Drop the largest bodies until all fit."""
        while sum(len(body.data) for body in self._open) > self._max_bytes:
            largest = max(self._open, key=lambda body: len(body.data))
            largest.given_up = True
            largest.data.clear()
