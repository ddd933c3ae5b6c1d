"""Measure whether an emulated link behaves as described, with frames of the runtime on a separate connection."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sepnas.emulation.link_shaping import Shaper
from sepnas.emulation.shared_clock import read, transmit, write
from sepnas.errors import DeadlineError, HandshakeError
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.protocol.events import Control, Data, Hello, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.pipes import PlainPipe
from sepnas.runtime.transport.sockets import connect, tune
from sepnas.spec.emulation import EmulatedLink, Emulation

_PINGS, _TRAIN = 5, 8
_PING_BYTES = 4
_CAR_S, _MIN_CAR_BYTES, _MAX_CAR_BYTES = 0.02, 1 << 10, 1 << 20
"""Duration of one message of the train, which determines its size, within bounds."""
_PING, _CAR = 0, 1
_GREETING_S = 10.0

Inside = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """One link as it is described (``set``) and as it was measured.

    ``message_s`` is half of the round trip of a message of 4 bytes, overhead included; the bandwidth is that of a train
    of large messages, overhead included. Both directions of a link are alike.
    """

    source: int
    destination: int
    message_set_s: float
    message_measured_s: float
    bandwidth_set_bytes_per_s: float
    bandwidth_measured_bytes_per_s: float


def link_kinds(emulations: Mapping[int, Emulation]) -> list[tuple[int, int]]:
    """One (source, destination) of each kind of link; the destination is a device."""
    found: dict[object, tuple[int, int]] = {}
    for source, emulation in sorted(emulations.items()):
        for link in emulation.links:
            if link.peer != CLIENT:
                threads = link.threads and link.threads.model_copy(update={"reader": 0})
                numbers = link.model_copy(update={"peer": 0, "queue": 0, "resources": (), "threads": threads})
                found.setdefault((numbers, source == CLIENT), (source, link.peer))
    return list(found.values())


def check_link(
    emulations: Mapping[int, Emulation], source: int, destination: int, host: str, inside: Inside
) -> LinkCheck:
    """Measure a link that nothing else uses, between two threads of this process.

    ``host`` is an address of the destination; sockets opened within ``inside(rank)`` belong to that rank. Raises
    :class:`DeadlineError` when no message arrives.
    """
    link = next(link for link in emulations[source].links if link.peer == destination)
    car_bytes = round(min(max(link.bandwidth_bytes_per_s * _CAR_S, _MIN_CAR_BYTES), _MAX_CAR_BYTES))
    arrivals: queue.SimpleQueue[int] = queue.SimpleQueue()
    set_s = _arrivals_s(link, car_bytes, _TRAIN)
    limit_s = 10.0 + 20 * set_s[-1]
    with _connected(emulations, source, destination, host, inside, car_bytes, arrivals) as dialer:
        pings = [_ping(dialer, number, arrivals, limit_s) for number in range(_PINGS + 1)][1:]  # the first warms up
        for number in range(1, _TRAIN + 1):
            dialer.send(Data(number, _CAR, bytes(car_bytes)))
        times_ns = [_next(arrivals, limit_s) for _ in range(_TRAIN)]
    frame_bytes = car_bytes + FRAME_HEADER_BYTES
    return LinkCheck(
        source=source,
        destination=destination,
        message_set_s=_arrivals_s(link, _PING_BYTES, 1)[0] + link.jitter_s,
        message_measured_s=sum(pings) / len(pings) / 2,
        bandwidth_set_bytes_per_s=(_TRAIN - 1) * frame_bytes / (set_s[-1] - set_s[0]),
        bandwidth_measured_bytes_per_s=(_TRAIN - 1) * frame_bytes * 1e9 / max(1, times_ns[-1] - times_ns[0]),
    )


def _arrivals_s(link: EmulatedLink, payload_bytes: int, count: int) -> list[float]:
    """Arrival times of ``count`` messages that are sent at once, in seconds."""
    found: list[float] = []
    thread_ns = left_ns = read_ns = 0
    frame_bytes = payload_bytes + FRAME_HEADER_BYTES
    for _ in range(count):
        first_ns, thread_ns = write(link, 0, thread_ns, frame_bytes)
        left_ns = transmit(link, max(first_ns, left_ns), thread_ns, frame_bytes)
        read_ns = read(link, left_ns + round(1e9 * link.latency_s), read_ns, frame_bytes)
        found.append(read_ns / 1e9)
    return found


def _ping(dialer: Channel, number: int, arrivals: queue.SimpleQueue[int], limit_s: float) -> float:
    sent_ns = time.monotonic_ns()
    dialer.send(Data(number, _PING, bytes(_PING_BYTES)))
    return (_next(arrivals, limit_s) - sent_ns) / 1e9


def _next(arrivals: queue.SimpleQueue[int], limit_s: float) -> int:
    """The arrival time of the next message, in nanoseconds."""
    try:
        return arrivals.get(timeout=limit_s)
    except queue.Empty:
        raise DeadlineError(f"nothing came through the emulated link for {limit_s:.0f} s") from None


@contextmanager
def _connected(
    emulations: Mapping[int, Emulation],
    source: int,
    destination: int,
    host: str,
    inside: Inside,
    car_bytes: int,
    arrivals: queue.SimpleQueue[int],
) -> Iterator[Channel]:
    """The source's end of a connection; the other end answers pings and records when large messages arrive."""
    dialing, accepted = _sockets(host, inside, source, destination)
    sizes = {_PING: _PING_BYTES, _CAR: car_bytes}
    dialer = Channel(PlainPipe(dialing), Connection(Side.DIALER, sizes), "the link's other end")
    listener = Channel(PlainPipe(accepted), Connection(Side.LISTENER, sizes), "the link's other end")
    shapers = [Shaper(emulations[source]), Shaper(emulations[destination])]

    def note(event: Control | Data) -> None:
        arrivals.put(time.monotonic_ns())

    def answer(event: Control | Data) -> None:
        if isinstance(event, Data) and event.tag == _PING:
            listener.send(Data(event.request, _PING, event.payload))
        else:
            note(event)

    try:
        tune(accepted)
        _greet(dialer, listener, emulations[source].deployment_id)
        dialer.link, listener.link = shapers[0].link(destination), shapers[1].link(source)
        dialer.start(note, lambda error: None)
        listener.start(answer, lambda error: None)
        yield dialer
    finally:
        for channel in (dialer, listener):
            channel.close()
        for shaper in shapers:
            shaper.close()


def _sockets(host: str, inside: Inside, source: int, destination: int) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection, each made where its device is."""
    with inside(destination):
        listening = socket.create_server((host, 0))
    with listening:
        with inside(source):
            dialing = connect(host, listening.getsockname()[1], time.monotonic() + _GREETING_S)
        accepted, _ = listening.accept()
    return dialing, accepted


def _greet(dialer: Channel, listener: Channel, deployment_id: str) -> None:
    """Finish the handshake of both ends; the ranks in it have no meaning here."""
    deadline = time.monotonic() + _GREETING_S
    dialer.send_now(Hello(deployment_id=deployment_id, rank=0, session="link-check"), deadline)
    if not isinstance(listener.next_event(deadline), Hello):
        raise HandshakeError("the emulated link does not carry a greeting")
    listener.send_now(Welcome(rank=1), deadline)
    dialer.next_event(deadline)
