"""A session for asyncio: requests are awaited, and no thread is blocked by them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from typing_extensions import Self, Unpack

from sepnas.errors import LocalProtocolError
from sepnas.runtime.client.answer import Answer, Outputs
from sepnas.runtime.client.inboxes import Arrival
from sepnas.runtime.client.inputs import Inputs
from sepnas.runtime.client.limits import checked_in_flight
from sepnas.runtime.client.reply import Reply
from sepnas.runtime.client.session import Session, SessionOptions
from sepnas.runtime.unexpected import start_thread
from sepnas.spec.hosts import Hosts

Batches: TypeAlias = "Iterable[Inputs] | AsyncIterable[Inputs]"


class AsyncSession:
    """A :class:`Session` whose requests are awaited; use it with ``async with``, which opens it.

    Arguments and errors are those of :class:`Session`. ``in_flight``: number of requests on their way at once, at most
    32; further ones wait for their turn, which does not count towards their deadlines. A request that is cancelled is
    cancelled on the devices too. Opening, closing and sending occupy a thread for a moment; no thread waits for an
    answer. The session belongs to the event loop that opened it; another one gets :class:`LocalProtocolError`.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        *,
        in_flight: int = 4,
        **options: Unpack[SessionOptions],
    ) -> None:
        self._open = partial(Session, Path(deployment), devices, **options)
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(checked_in_flight(in_flight))

    @property
    def session(self) -> Session:
        """The open session; its own calls block."""
        if self._session is None:
            raise LocalProtocolError("the session is not open; use `async with`")
        return self._session

    async def __aenter__(self) -> Self:
        if self._session is not None or self._loop is not None:
            raise LocalProtocolError("the session was opened already; make another AsyncSession")
        self._loop = asyncio.get_running_loop()
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            self._session = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.session.close)

    async def infer(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> Outputs:
        """The output of a batch, or its outputs by name; as :meth:`Session.infer`."""
        return (await self.ask(inputs, timeout_s, plan=plan)).result

    async def ask(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> Answer:
        """The outputs by name together with what is missing in them; as :meth:`Session.ask`."""
        if asyncio.get_running_loop() is not self._loop:
            raise LocalProtocolError(
                "the session is not open in this event loop; open one in each loop (asyncio.run makes a new one)"
            )
        async with self._turns:
            inbox = _LoopInbox()
            return await self._wait(await self._begin(inputs, inbox, timeout_s, plan), inbox)

    async def stream(
        self, batches: Batches, in_flight: int = 2, timeout_s: float | None = None, *, plan: str | None = None
    ) -> AsyncGenerator[Outputs]:
        """The result of :meth:`infer` for each batch, in order; as :meth:`Session.stream`."""
        async with contextlib.aclosing(self.answers(batches, in_flight, timeout_s, plan=plan)) as answers:
            async for answer in answers:
                yield answer.result

    async def answers(
        self, batches: Batches, in_flight: int = 2, timeout_s: float | None = None, *, plan: str | None = None
    ) -> AsyncGenerator[Answer]:
        """As :meth:`stream`, together with what is missing in each answer."""
        checked_in_flight(in_flight)
        window: deque[asyncio.Task[Answer]] = deque()
        try:
            async for batch in _each(batches):
                window.append(asyncio.create_task(self.ask(batch, timeout_s, plan=plan)))
                if len(window) == in_flight:
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def classify(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> list[str]:
        """The class name of each sample of a batch; as :meth:`Session.classify`."""
        classes = self.session.manifest.classes
        best = (await self.ask(inputs, timeout_s, plan=plan)).logits.argmax(axis=1)
        return [classes[index] for index in best]

    async def _begin(self, inputs: Inputs, inbox: _LoopInbox, timeout_s: float | None, plan: str | None) -> Reply:
        """Send in a thread: that normalises and encodes. If cancelled meanwhile, the request is abandoned."""
        sending = asyncio.ensure_future(asyncio.to_thread(self.session.begin, inputs, inbox, timeout_s, plan=plan))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.add_done_callback(self._abandon)
            raise

    def _abandon(self, sending: asyncio.Future[Reply]) -> None:
        if not sending.cancelled() and sending.exception() is None:
            self.session.abandon(sending.result())

    async def _wait(self, reply: Reply, inbox: _LoopInbox) -> Answer:
        try:
            while not reply.done:
                try:
                    reply.take(await inbox.get(reply.left_s))
                except queue.Empty:
                    self.session.fall_back(reply)
        except BaseException:
            self.session.abandon(reply)
            raise
        return self.session.finish(reply)


class _LoopInbox:
    """A queue that other threads fill and the event loop reads."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals: deque[Arrival] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, arrival: Arrival) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._take, arrival)

    def _take(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def get(self, timeout_s: float) -> Arrival:
        """The next arrival, even if it is late; raises ``queue.Empty`` when none comes in time."""
        if not self._arrivals:
            self._waiting = self._loop.create_future()
            alarm = self._loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                alarm.cancel()
        if not self._arrivals:
            raise queue.Empty
        return self._arrivals.popleft()


def _close(opening: asyncio.Future[Session]) -> None:
    """Close a session whose opening was cancelled."""
    if not opening.cancelled() and opening.exception() is None:
        start_thread(opening.result().close)


async def _each(batches: Batches) -> AsyncIterator[Inputs]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
