"""A session for asyncio: requests are awaited, and no thread waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy.typing as npt
from typing_extensions import Self

from sepnas.errors import LocalProtocolError
from sepnas.runtime.codec import Array
from sepnas.runtime.fleet import Arrival
from sepnas.runtime.reply import Answer, Reply
from sepnas.runtime.session import DEFAULT_DEADLINE_S, MAX_IN_FLIGHT, Session, checked_in_flight
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import OnMissing


class AsyncSession:
    """A :class:`Session` whose requests are awaited; use it with ``async with``, which opens it.

    Arguments and errors are those of :class:`Session`. Up to 32 requests are on their way, others wait for their turn;
    one that is cancelled is cancelled on the devices too. Everything runs in the event loop but opening, closing and
    normalising uint8 images, which take a thread for a moment.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        insecure: bool = False,
        on_missing: OnMissing | None = None,
    ) -> None:
        self._open = partial(
            Session, Path(deployment), devices, deadline_s=deadline_s, insecure=insecure, on_missing=on_missing
        )
        self._session: Session | None = None
        self._turns = asyncio.Semaphore(MAX_IN_FLIGHT)

    @property
    def session(self) -> Session:
        """The open session; its own calls wait."""
        if self._session is None:
            raise LocalProtocolError("the session is not open; use `async with`")
        return self._session

    async def __aenter__(self) -> Self:
        self._session = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.session.close)

    async def infer(self, batch: npt.ArrayLike, deadline_s: float | None = None) -> Array:
        """The logits ``(B, classes)`` of a batch, as :meth:`Session.infer` gives them."""
        return (await self.ask(batch, deadline_s)).logits

    async def ask(self, batch: npt.ArrayLike, deadline_s: float | None = None) -> Answer:
        """The logits with what is missing in them, as :meth:`Session.ask` gives them."""
        async with self._turns:
            inbox = _Inbox()
            return await self._wait(await self._begin(batch, inbox, deadline_s), inbox)

    async def stream(
        self,
        batches: Iterable[npt.ArrayLike] | AsyncIterable[npt.ArrayLike],
        in_flight: int = 2,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Array]:
        """The logits of each batch, in order, as :meth:`Session.stream` gives them."""
        async with contextlib.aclosing(self.answers(batches, in_flight, deadline_s)) as answers:
            async for answer in answers:
                yield answer.logits

    async def answers(
        self,
        batches: Iterable[npt.ArrayLike] | AsyncIterable[npt.ArrayLike],
        in_flight: int = 2,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Answer]:
        """A stream with what is missing in each answer."""
        checked_in_flight(in_flight)
        window: deque[asyncio.Task[Answer]] = deque()
        try:
            async for batch in _each(batches):
                window.append(asyncio.create_task(self.ask(batch, deadline_s)))
                if len(window) == in_flight:
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def classify(self, images: npt.ArrayLike, deadline_s: float | None = None) -> list[str]:
        """The class names of a batch, one for each image."""
        best = (await self.infer(images, deadline_s)).argmax(axis=1)
        return [self.session.manifest.classes[index] for index in best]

    async def _begin(self, batch: npt.ArrayLike, inbox: _Inbox, deadline_s: float | None) -> Reply:
        """In a thread, for it normalises and encodes; when cancelled meanwhile, what it sent is cancelled."""
        sending = asyncio.ensure_future(asyncio.to_thread(self.session.begin, batch, inbox, deadline_s))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.add_done_callback(self._abandon)
            raise

    def _abandon(self, sending: asyncio.Future[Reply]) -> None:
        if not sending.cancelled() and sending.exception() is None:
            self.session.abandon(sending.result())

    async def _wait(self, reply: Reply, inbox: _Inbox) -> Answer:
        try:
            while not reply.done:
                try:
                    reply.take(await asyncio.wait_for(inbox.get(), reply.left_s))
                except asyncio.TimeoutError:
                    if not self.session.fall_back(reply):
                        break
        except BaseException:
            self.session.abandon(reply)
            raise
        return self.session.finish(reply)


class _Inbox:
    """A queue that other threads fill and the event loop empties."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()

    def put(self, arrival: Arrival) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival)

    async def get(self) -> Arrival:
        return await self._arrivals.get()


async def _each(batches: Iterable[npt.ArrayLike] | AsyncIterable[npt.ArrayLike]) -> AsyncIterator[npt.ArrayLike]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
