"""Somebody in the middle, who spoils what passes: a relay before each device, for its peers and for the client."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from asking import Asking, Case, inject, is_complete
from devices import Devices
from network import Deployed
from typing_extensions import Self

from sepnas.runtime.client.session import Session
from sepnas.spec.hosts import Hosts, parse_address

Trick = Literal["corrupt", "replay"]
_HEADER_BYTES, _APPLICATION_DATA = 5, 23


class Relay:
    """Passes on TLS records, both ways, and plays a trick on the next one that carries data."""

    def __init__(self, address: str) -> None:
        self._target = parse_address(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._trick: Trick | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def play(self, trick: Trick) -> None:
        with self._lock:
            self._trick = trick

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        buffer = bytearray()
        try:
            while data := source.recv(1 << 16):
                buffer += data
                while record := _take_record(buffer):
                    target.sendall(self._spoiled(record))
        except OSError:
            pass
        finally:
            for sock in (source, target):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _spoiled(self, record: bytes) -> bytes:
        with self._lock:
            if self._trick is None or record[0] != _APPLICATION_DATA:
                return record
            trick, self._trick = self._trick, None
        if trick == "replay":
            return 2 * record
        middle = (_HEADER_BYTES + len(record)) // 2
        return record[:middle] + bytes([record[middle] ^ 1]) + record[middle + 1 :]


def _take_record(buffer: bytearray) -> bytes:
    """The whole TLS record at the front of the buffer, which loses it; nothing when it is not all there."""
    if len(buffer) < _HEADER_BYTES:
        return b""
    end = _HEADER_BYTES + int.from_bytes(buffer[3:_HEADER_BYTES], "big")
    if len(buffer) < end:
        return b""
    record = bytes(buffer[:end])
    del buffer[:end]
    return record


class Relays:
    """One before each device; ``hosts`` leads through them."""

    def __init__(self, hosts: Hosts, num_devices: int) -> None:
        self.each = [Relay(hosts.address(rank)) for rank in range(num_devices)]
        self.hosts = Hosts.on([relay.address for relay in self.each])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self.each:
            relay.close()


def middle_faults(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """A byte is changed or a record comes twice: TLS notices, the connection ends, and what was spoiled is not used."""
    tricks: dict[str, Trick] = {"corrupted": "corrupt", "replayed": "replay"}
    with Relays(devices.hosts, deployed.num_devices) as relays:
        for name, trick in tricks.items():

            def spoil(rank: int, trick: Trick = trick) -> Callable[[], None]:
                return lambda: relays.each[rank].play(trick)

            case = Case(f"{name}, strict")
            for rank in case.turns(times, deployed.num_devices):
                with Session(deployed.folder, relays.hosts, on_missing="strict") as session:
                    asking = Asking(session, deployed, case)
                    asking.until(is_complete)
                    case.detected_s.append(inject(asking, draw, spoil(rank)))
            yield case
            case = Case(f"{name}, degrade")
            with Session(deployed.folder, relays.hosts, on_missing="degrade") as session:
                asking = Asking(session, deployed, case)
                asking.until(is_complete)
                for rank in case.turns(times, deployed.num_devices):
                    case.detected_s.append(inject(asking, draw, spoil(rank)))
                    noticed = time.monotonic()
                    ended, _ = asking.until(is_complete)
                    case.full_service_s.append(ended - noticed)
            yield case
