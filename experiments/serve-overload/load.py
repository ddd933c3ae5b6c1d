"""Clients of an HTTP service, many in one process: each asks on a connection of its own, again and again."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

ANSWERED, BUSY, GAVE_UP, OTHER = "answered", "busy", "gave up", "other"
_WORDS = {b"200": ANSWERED, b"503": BUSY}


@dataclass(frozen=True)
class Kind:
    """So many clients that wait ``patience_s`` for an answer, hang up, and ask again at once; one that is told 503
    pauses for about ``pause_s``."""

    name: str
    number: int
    patience_s: float
    pause_s: float


def image_request(size: int) -> bytes:
    """An image of noise, as a whole request."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    body = file.getvalue()
    head = "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _ask(port: int, request: bytes, patience_s: float) -> str:
    """On bare sockets, which cost little: what the clients take of the machine the service cannot have."""
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            status = await asyncio.wait_for(_status(sock, port, request), patience_s)
        except asyncio.TimeoutError:
            return GAVE_UP
        except OSError:
            return OTHER
    return _WORDS.get(status, OTHER)


async def _status(sock: socket.socket, port: int, request: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, request)
    return (await loop.sock_recv(sock, 4096))[9:12]


async def load(port: int, request: bytes, kind: Kind, seconds: float) -> dict[str, list[float]]:
    """How the requests of these clients ended that ended in this time, and how long each took."""
    found: dict[str, list[float]] = {word: [] for word in (ANSWERED, BUSY, GAVE_UP, OTHER)}
    end, chance = time.monotonic() + seconds, random.Random(0)

    async def one(number: int) -> None:
        await asyncio.sleep(kind.patience_s * number / kind.number)  # not all at once
        while time.monotonic() < end:
            began = time.monotonic()
            word = await _ask(port, request, kind.patience_s)
            if time.monotonic() < end:
                found[word].append(time.monotonic() - began)
            if word in (BUSY, OTHER):
                await asyncio.sleep(kind.pause_s * chance.uniform(0.5, 1.5))

    await asyncio.gather(*(one(number) for number in range(kind.number)))
    return found
