"""Decoding images in separate processes: one that takes too long or crashes is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

import sepnas
from sepnas.deployment.manifest import ImageInput
from sepnas.errors import DataError, DeadlineError
from sepnas.runtime.client.images import Images, Resize
from sepnas.runtime.service.decoder import ANSWER, ERROR, NUMBER, READY, SIZES
from sepnas.runtime.service.turns import Turns

MAX_AT_ONCE = 2
MAX_PIXELS = 25_000_000
_START_S = 60.0
_PAUSE_S = 1.0
_END_S = 0.5
_MAX_TEXT_BYTES = 65_536
_LOG = logging.getLogger("sepnas.serve")


@dataclass(frozen=True)
class Order:
    """The form to decode an image to, and its bound."""

    wanted: ImageInput
    resize: Resize | None
    max_pixels: int

    def to_bytes(self) -> bytes:
        wanted = self.wanted.model_dump(mode="json")
        return json.dumps({"input": wanted, "resize": self.resize, "max_pixels": self.max_pixels}).encode()

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.wanted.channels, self.wanted.size, self.wanted.size

    @property
    def pixel_bytes(self) -> int:
        return self.wanted.channels * self.wanted.size**2


class Decoders:
    """A parent process and its children, each of which decodes one image at a time; ``async with`` runs them.

    Args:
        max_pixels: the size of image that a child's memory limit allows.
        at_once: number of images decoded at the same time; each takes up to about 200 MB.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, at_once: int = MAX_AT_ONCE) -> None:
        self.max_pixels = max_pixels
        self._turns = Turns(at_once)
        self._parent: _DecoderParent | None = None
        self._idle: list[_DecoderChild] = []
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

    async def decode(self, image: bytes, order: Order, due: float) -> Images:
        """``(channels, size, size)`` uint8. If the call is cancelled, the decoding that has begun still ends normally.

        Raises :class:`DataError` (no image, or one that crashes its decoder) and :class:`DeadlineError`.
        """
        await self._turns.take(due)
        work = self._keep(self._decode(image, order, due))
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

    async def _decode(self, image: bytes, order: Order, due: float) -> Images:
        child = await self._next(due)
        try:
            kind, content = await asyncio.wait_for(child.ask(order, image), due - time.monotonic())
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

    async def _next(self, due: float) -> _DecoderChild:
        while True:
            while self._parent is None:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), max(0.0, due - time.monotonic()))
                except asyncio.TimeoutError:
                    raise DeadlineError("the process that decodes images was not ready in time") from None
            if due <= time.monotonic():
                raise DeadlineError("the image was not decoded before the deadline")
            try:
                if self._idle:
                    return self._idle.pop()
                return await asyncio.wait_for(self._parent.child(), due - time.monotonic())
            except asyncio.TimeoutError:
                raise DeadlineError("no process that decodes images was ready in time") from None
            except OSError as error:
                _LOG.warning("the process that decodes images is started again: %s", error)
                self._restart()

    def _end(self, child: _DecoderChild) -> None:
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
                self._parent = await _DecoderParent.start(self.max_pixels)
            except (OSError, asyncio.TimeoutError) as error:
                _LOG.warning("cannot start the process that decodes images: %s", error)
                await asyncio.sleep(_PAUSE_S)
        self._changed.set()


class _DecoderParent:
    """The process that forks children cheaply, and kills them."""

    def __init__(self, max_pixels: int) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._numbers = itertools.count()
        command = [sys.executable, "-m", "sepnas.runtime.service.decoder", str(max_pixels)]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
            )

    @classmethod
    async def start(cls, max_pixels: int) -> Self:
        """Raises ``OSError``."""
        parent = cls(max_pixels)
        try:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(parent._control, len(READY)), _START_S)
            if said != READY:
                raise OSError("it ended before it was ready")
        except BaseException:
            parent.close()
            raise
        return parent

    async def child(self) -> _DecoderChild:
        """A new child that is ready: a later crash is the fault of its image. Raises ``OSError``."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [NUMBER.pack(number)], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        child = _DecoderChild(number, *await asyncio.open_unix_connection(sock=ours))
        try:
            await child.ready()
        except BaseException:
            child.close()
            raise
        return child

    def kill(self, number: int) -> None:
        """Raises ``OSError``."""
        self._control.send(NUMBER.pack(number))

    def close(self) -> None:
        """The process and its children end when their socket is closed; after half a second it is killed."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()
        self._process.wait()


class _DecoderChild:
    """A child process; idle until it is asked."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self._reader, self._writer = number, reader, writer

    async def ready(self) -> None:
        """Wait for its first word; raises ``OSError`` when it or its parent ends before."""
        try:
            await self._reader.readexactly(len(READY))
        except EOFError as error:
            raise OSError("it made no child") from error

    async def ask(self, order: Order, image: bytes) -> tuple[bytes, bytes]:
        """The kind and the content of its answer; raises ``EOFError`` and ``OSError`` when the child has ended."""
        head = order.to_bytes()
        self._writer.write(SIZES.pack(len(head), len(image)) + head)
        self._writer.write(image)
        await self._writer.drain()
        kind, size = ANSWER.unpack(await self._reader.readexactly(ANSWER.size))
        if size > _MAX_TEXT_BYTES if kind == ERROR else size != order.pixel_bytes:
            raise EOFError  # an image has taken control of the child
        return kind, await self._reader.readexactly(size)

    def close(self) -> None:
        self._writer.transport.abort()


def _environment() -> dict[str, str]:
    """One thread, and the modules of this very sepnas, whatever the working directory."""
    paths = [str(Path(sepnas.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **found, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
