"""A bare TLS socket of Python's standard library, there and back between two processes.

Either end may compute for a moment before it sends, as a device does: caches go cold and the other end falls asleep.
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

START_S = 30.0


def _context(folder: Path, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _receive(sock: socket.socket, view: memoryview) -> bool:
    """Fill the view; False at the end."""
    while len(view):
        count = sock.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def compute(seconds: float) -> float:
    """Multiply matrices for so long; how long it was."""
    matrix = np.ones((64, 64), np.float32)
    start = time.perf_counter()
    while (took_s := time.perf_counter() - start) < seconds:
        matrix @ matrix
    return took_s


def _echo(folder: Path, size: int, pause_s: float, told: Connection) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    told.send(listener.getsockname()[1])
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with _context(folder, server=True).wrap_socket(sock, server_side=True) as tls:
        buffer = bytearray(size)
        while _receive(tls, memoryview(buffer)):
            came = time.perf_counter()
            compute(pause_s)
            tls.sendall(buffer[:-8] + struct.pack(">d", time.perf_counter() - came))


class BareTls:
    """The near end; both use one device's certificate."""

    def __init__(self, sock: ssl.SSLSocket, size: int, pause_s: float) -> None:
        self._sock, self._buffer, self._pause_s = sock, bytearray(size), pause_s

    def one_way_s(self) -> float:
        """Half of the way there and back, without what the other end computed."""
        compute(self._pause_s)
        start = time.perf_counter()
        self._sock.sendall(self._buffer)
        if not _receive(self._sock, memoryview(self._buffer)):
            raise ConnectionError("the echo has left")
        took_s = time.perf_counter() - start
        (paused_s,) = struct.unpack(">d", self._buffer[-8:])
        return float(took_s - paused_s) / 2


@contextmanager
def bare_tls(folder: Path, server_name: str, size: int, pause_s: float = 0.0) -> Iterator[BareTls]:
    """An echo in a process of its own; ``folder`` holds a certificate for ``server_name``."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_echo, args=(folder, size, pause_s, there), daemon=True
    )
    process.start()
    try:
        if not here.poll(START_S):
            raise TimeoutError("the echo did not start")
        with socket.create_connection(("127.0.0.1", here.recv())) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with _context(folder, server=False).wrap_socket(sock, server_hostname=server_name) as tls:
                yield BareTls(tls, size, pause_s)
    finally:
        process.join(5.0)
        if process.is_alive():
            process.kill()
