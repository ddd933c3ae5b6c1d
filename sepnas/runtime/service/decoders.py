"""Decoding images in separate processes: one that takes too long or crashes is replaced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from sepnas.errors import DataError, DeadlineError
from sepnas.runtime.client.images import Images
from sepnas.runtime.service.decoder import ERROR
from sepnas.runtime.service.decoder_processes import DecoderChild, DecoderParent, Order
from sepnas.runtime.service.turns import Turns

MAX_AT_ONCE = 2
MAX_PIXELS = 25_000_000
_PAUSE_S = 1.0
_LOG = logging.getLogger("sepnas.serve")


class Decoders:
    """A parent process and its children, each of which decodes one image at a time; ``async with`` runs them.

    Args:
        max_pixels: the size of image that a child's memory limit allows.
        at_once: number of images decoded at the same time; each takes up to about 200 MB.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, at_once: int = MAX_AT_ONCE) -> None:
        self.max_pixels = max_pixels
        self._turns = Turns(at_once)
        self._parent: DecoderParent | None = None
        self._idle: list[DecoderChild] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._changed = asyncio.Event()
        self._keep(self._start())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for child in self._idle:
            child.close()
        if self._parent is not None:
            self._parent.close()

    @property
    def ready(self) -> bool:
        return self._parent is not None

    async def decode(self, image: bytes, order: Order, deadline: float) -> Images:
        """``(channels, size, size)`` uint8. If the call is cancelled, the decoding that has begun still ends normally.

        Raises :class:`DataError` (no image, or one that crashes its decoder) and :class:`DeadlineError`.
        """
        await self._turns.take(deadline)
        work = self._keep(self._decode(image, order, deadline))
        work.add_done_callback(lambda _: self._turns.give())
        return await asyncio.shield(work)

    def gave_up(self) -> None:
        """A client did not wait for its answer."""
        self._turns.gave_up()

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it; a caller that still waits gets it too

    async def _decode(self, image: bytes, order: Order, deadline: float) -> Images:
        child = await self._next(deadline)
        try:
            kind, content = await asyncio.wait_for(child.ask(order, image), deadline - time.monotonic())
        except BaseException as error:
            self._end(child)
            if isinstance(error, asyncio.TimeoutError):
                raise DeadlineError("the image takes longer to decode than the deadline allows") from None
            if isinstance(error, EOFError | OSError):
                raise DataError("the image cannot be decoded: its decoder crashed") from None
            raise
        self._idle.append(child)
        if kind == ERROR:
            raise DataError(content.decode(errors="replace"))
        return np.frombuffer(content, np.uint8).reshape(order.shape)

    async def _next(self, deadline: float) -> DecoderChild:
        while True:
            while self._parent is None:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - time.monotonic()))
                except asyncio.TimeoutError:
                    raise DeadlineError("the process that decodes images was not ready in time") from None
            if deadline <= time.monotonic():
                raise DeadlineError("the image was not decoded before the deadline")
            try:
                if self._idle:
                    return self._idle.pop()
                return await asyncio.wait_for(self._parent.child(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise DeadlineError("no process that decodes images was ready in time") from None
            except OSError as error:
                _LOG.warning("the process that decodes images is started again: %s", error)
                self._restart()

    def _end(self, child: DecoderChild) -> None:
        child.close()
        if self._parent is not None:
            try:
                self._parent.kill(child.number)
            except OSError:
                self._restart()

    def _restart(self) -> None:
        if self._parent is not None:
            self._parent.close()
            self._parent = None
            self._keep(self._start())

    async def _start(self) -> None:
        """Start the parent process, as often as it takes."""
        while self._parent is None:
            try:
                self._parent = await DecoderParent.start(self.max_pixels)
            except (OSError, asyncio.TimeoutError) as error:
                _LOG.warning("cannot start the process that decodes images: %s", error)
                await asyncio.sleep(_PAUSE_S)
        self._changed.set()
