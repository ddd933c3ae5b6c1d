"""Turns: requests wait for one of a few slots, each until its own deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from sepnas.errors import DeadlineError

HURRY_S = 1.0
"""Time after a client gave up for which the newest request is next: the oldest would give up in the middle."""


class Turns:
    """At most ``slots`` at once; others wait in order of arrival, or newest first while clients give up."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._hurry_until = 0.0

    @contextlib.asynccontextmanager
    async def turn(self, deadline: float) -> AsyncIterator[None]:
        """Hold a slot; raises :class:`DeadlineError` if none is free by ``deadline`` (``time.monotonic`` seconds)."""
        await self.take(deadline)
        try:
            yield
        finally:
            self.give()

    def gave_up(self) -> None:
        """A client did not wait for its answer."""
        self._hurry_until = time.monotonic() + HURRY_S

    async def take(self, deadline: float) -> None:
        """Take a slot, to be given back by :meth:`give`; raises as :meth:`turn` does."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(mine)
        alarm = loop.call_later(max(0.0, deadline - time.monotonic()), _end, mine)
        try:
            has_turn = await mine
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.result():  # the slot and the cancellation came at once
                self.give()
            raise
        finally:
            alarm.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine)
        if not has_turn:
            raise DeadlineError("the request waited behind others until its deadline")

    def give(self) -> None:
        """Give a slot back, to the next that waits."""
        newest_first = time.monotonic() < self._hurry_until
        while self._waiting:
            found = self._waiting.pop() if newest_first else self._waiting.popleft()
            if not found.done():
                found.set_result(True)
                return
        self._free += 1


def _end(waiting: asyncio.Future[bool]) -> None:
    if not waiting.done():
        waiting.set_result(False)
