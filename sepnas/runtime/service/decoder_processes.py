"""The processes that decode images, seen from the service: one parent, which forks children and kills them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

import sepnas
from sepnas.deployment.network_facts import ImageInput
from sepnas.runtime.client.images import Resize
from sepnas.runtime.service.decoder import ANSWER, ERROR, NUMBER, READY, SIZES

_START_S = 60.0
_END_S = 0.5
_MAX_TEXT_BYTES = 65_536


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
        return self.wanted.dims

    @property
    def pixel_bytes(self) -> int:
        return math.prod(self.wanted.dims)


class DecoderParent:
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
        """A parent that is ready; raises ``OSError`` and ``asyncio.TimeoutError``."""
        parent = cls(max_pixels)
        try:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(parent._control, len(READY)), _START_S)
            if said != READY:
                raise OSError("it ended before it was ready")
        except BaseException:
            parent.close()
            raise
        return parent

    async def child(self) -> DecoderChild:
        """A new child that is ready: a later crash is the fault of its image. Raises ``OSError``."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [NUMBER.pack(number)], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        child = DecoderChild(number, *await asyncio.open_unix_connection(sock=ours))
        try:
            await child.ready()
        except BaseException:
            child.close()
            raise
        return child

    def kill(self, number: int) -> None:
        """Have a child killed; raises ``OSError``."""
        self._control.send(NUMBER.pack(number))

    def close(self) -> None:
        """The process and its children end when their socket is closed; after half a second it is killed."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()
        self._process.wait()


class DecoderChild:
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
        """Close its socket; the parent kills it if it is still at work."""
        self._writer.transport.abort()


def _environment() -> dict[str, str]:
    """One thread, and the modules of this very sepnas, whatever the working directory."""
    paths = [str(Path(sepnas.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **found, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
