"""Bodies on their way from clients: bounded in bytes all together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sepnas.errors import BusyError


class Body:
    """What has come of one body."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.data = bytearray()
        self.given_up = False

    def add(self, chunk: bytes) -> None:
        """Raises :class:`BusyError` when this one was given up for others."""
        self.data += chunk
        self._bodies.make_room()
        if self.given_up:
            self.data.clear()
            raise BusyError("too many large images are being sent at once; try again in a moment")


class Bodies:
    """At most so many bytes; when more have come, the largest body that is not whole is given up: small images of
    others go on."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: set[Body] = set()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Body]:
        body = Body(self)
        self._open.add(body)
        try:
            yield body
        finally:
            self._open.discard(body)

    def make_room(self) -> None:
        while sum(len(body.data) for body in self._open) > self._max_bytes:
            largest = max(self._open, key=lambda body: len(body.data))
            largest.given_up = True
            largest.data.clear()
