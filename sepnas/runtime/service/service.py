"""One session that many clients share: with a bounded queue, and opened again whenever its devices are back.

What a service of any kind needs; HTTP is in ``http_app.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import Self

from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.verify import verify_client
from sepnas.errors import BusyError, DeadlineError, ExchangeError, PeerLostError, PeerUnreachableError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.classes import likeliest
from sepnas.runtime.client.images import Resize, resize_of
from sepnas.runtime.client.reply import Answer
from sepnas.runtime.client.session import Session
from sepnas.runtime.line_writer import LineWriter
from sepnas.runtime.service.decoders import MAX_AT_ONCE, MAX_PIXELS, Decoders, Order
from sepnas.runtime.service.turns import Turns
from sepnas.runtime.transport.handshake import check_loopback
from sepnas.spec.hosts import Hosts, parse_address
from sepnas.terminal import one_line

_OPEN_S = 5.0
_PROBE_S = 1.0
_LEAST_PAUSE_S, _MOST_PAUSE_S, _LOOK_S = 0.1, 2.0, 0.1
_MORE_PLACES, _FEWER_PLACES = 0.05, 0.9
"""With each answer more, with each client that gives up fewer: some one in twenty then computes in vain."""


@dataclass(frozen=True)
class Health:
    """Whether requests can be answered, each device's state, and what is wrong when they cannot."""

    ready: bool
    devices: dict[int, str]
    problem: str = ""


@dataclass(frozen=True)
class Classified:
    """The likeliest classes of one image with their probabilities, and the answer that they come from."""

    classes: list[tuple[str, float]]
    answer: Answer


class Service:
    """Classifies images through the devices of a deployment; ``async with`` runs it.

    Args:
        deployment, devices, insecure, on_missing: as for :class:`Session`; the files are read again whenever a session
            is opened, so that other addresses or another export need no restart.
        deadline_s: from an image to its answer, waiting included.
        in_flight, queue: so many requests are at the devices, so many more wait.
        resize: what becomes of an image of another size; by default what training did.
        top: how many classes an answer has.
        max_pixels: of an image; it is decoded by a process of its own, which is killed at the deadline.

    It starts without its devices: they are dialed until they are there, with longer and longer pauses, and again when
    a session is over because one was lost. Raises :class:`DeploymentError` and :class:`SpecError` when the deployment
    or the list of addresses is wrong.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | None = None,
        *,
        deadline_s: float = 1.0,
        insecure: bool = False,
        on_missing: OnMissing | None = None,
        in_flight: int = 4,
        queue: int = 16,
        resize: Resize | None = None,
        top: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._folder, self._hosts_file = Path(deployment), devices
        self._insecure, self._on_missing = insecure, on_missing
        self._deadline_s, self._in_flight, self._queue = deadline_s, in_flight, queue
        self._resize, self._top = resize, top
        self._decoders = Decoders(max_pixels)
        self.manifest: Manifest = verify_client(self._folder, uses_hosts=devices is None)
        self._check_addresses()
        self._new_session()  # whose arguments are checked now
        self._devices: AsyncSession | None = None
        self._lost: dict[int, str] = {}
        self._problem = "the devices are being connected; try again in a moment"
        self._said, self._lines = "", LineWriter(sys.stderr)
        self._taken = 0
        self._next_probe = 0.0
        self._places = float(in_flight + queue)

    @property
    def on_missing(self) -> OnMissing:
        """``strict`` or ``degrade``."""
        return self._on_missing or self.manifest.on_missing

    @property
    def resize(self) -> Resize:
        """What becomes of an image of another size."""
        return resize_of(self.manifest.input, self._resize)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The devices that the client talks to."""
        return tuple(sorted({m.destination for m in self.manifest.messages if m.source == CLIENT}))

    async def __aenter__(self) -> Self:
        self._starts, self._turns = Turns(self._in_flight + MAX_AT_ONCE), Turns(self._in_flight)
        await self._decoders.__aenter__()
        self._keeper = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._decoders.__aexit__(kind, error, traceback)

    def health(self) -> Health:
        """How the devices are now."""
        if self._devices is None:
            states = {rank: self._lost.get(rank, "not connected") for rank in self.ranks}
            return Health(False, states, self._problem)
        session = self._devices.session
        problem = "" if session.can_answer() else _problem(session)
        if not self._decoders.ready:
            problem = problem or "the process that decodes images is being started; try again in a moment"
        return Health(not problem, session.health(), problem)

    @property
    def is_full(self) -> bool:
        """Whether :meth:`place` would refuse."""
        return self._taken >= self.places

    @property
    def places(self) -> int:
        """Requests that are answered or wait at most: fewer while clients do not wait long enough for their answer."""
        return int(self._places)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests that are answered or wait; :class:`BusyError` when there is none."""
        if self.is_full:
            raise BusyError(self.busy)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def _more_places(self) -> None:
        self._places = min(self._places + _MORE_PLACES, self._in_flight + self._queue)

    def _fewer_places(self) -> None:
        """Not so few that the devices would have to wait for requests: as many wait as are there."""
        least = min(2 * self._in_flight + MAX_AT_ONCE, self._in_flight + self._queue)
        self._places = max(least, _FEWER_PLACES * self._places)
        for turns in (self._starts, self._turns, self._decoders):
            turns.gave_up()

    @property
    def busy(self) -> str:
        """What a client is told when there is no place."""
        return f"{self._in_flight} requests are at the devices and {self._queue} wait; try again in a moment"

    async def classify(self, image: bytes) -> Classified:
        """Classify an encoded image; cancelling the call cancels the request on the devices.

        Raises :class:`DataError` (not an image, wrong size, too many pixels), :class:`PeerUnreachableError` (no session
        is open, and why), and what :meth:`Session.ask` raises.
        """
        due = time.monotonic() + self._deadline_s
        try:
            async with self._starts.turn(due):  # those that wait longer have cost nothing when they give up
                found = await self._classify(image, due)
        except asyncio.CancelledError:
            self._fewer_places()
            raise
        self._more_places()
        return found

    async def _classify(self, image: bytes, due: float) -> Classified:
        self._open_session()  # in vain would be what follows
        manifest = self.manifest
        order = Order(manifest.input, self._resize, self._decoders.max_pixels)
        pixels_CHW = await self._decoders.decode(image, order, due)
        async with self._turns.turn(due):
            left_s = due - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(f"the request waited behind others for {self._deadline_s:g} s")
            answer = await self._open_session().ask(pixels_CHW[None], left_s)
        return Classified(likeliest(answer.logits, manifest.classes, self._top)[0], answer)

    def _open_session(self) -> AsyncSession:
        if self._devices is None:
            raise PeerUnreachableError(self._problem)
        return self._devices

    def _new_session(self) -> AsyncSession:
        return AsyncSession(
            self._folder, self._hosts_file, deadline_s=_OPEN_S, insecure=self._insecure, on_missing=self._on_missing,
            in_flight=self._in_flight,
        )  # fmt: skip

    def _check_addresses(self) -> None:
        hosts = Hosts.load(self._hosts_file or self._folder / "hosts.yaml")
        for rank in self.ranks:
            host, _ = parse_address(hosts.address(rank))
            if self._insecure:
                check_loopback(host)

    async def _keep_open(self) -> None:
        """Open a session, wait until it is over, and again."""
        pause_s = _LEAST_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                async with self._new_session() as devices:
                    await self._serve_with(devices)
            except Exception as error:  # whatever it is, the service outlives it
                self._problem = str(error) or type(error).__name__
                self._say(f"waits for the devices: {self._problem}")
            if time.monotonic() - begun > _OPEN_S + _MOST_PAUSE_S:
                pause_s = _LEAST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(_MOST_PAUSE_S, 2 * pause_s)

    async def _serve_with(self, devices: AsyncSession) -> None:
        """Until the session is over, which raises how."""
        session = devices.session
        self.manifest = session.manifest
        self._devices, self._lost = devices, {}
        self._say(f"{len(self.ranks)} devices are ready")
        try:
            while not session.is_over:
                self._tell_changes(session)
                await self._probe(devices)
                await asyncio.sleep(_LOOK_S)
        finally:
            self._devices = None
        self._lost = session.lost()
        raise PeerLostError("; ".join(self._lost.values()) or "a device ended the session")

    async def _probe(self, devices: AsyncSession) -> None:
        """While requests fail on a device nobody may send one, and then nobody learns that it can again: ask it now and
        then with a black image."""
        if time.monotonic() < self._next_probe or not devices.session.is_failing():
            return
        self._next_probe = time.monotonic() + _PROBE_S
        image = self.manifest.input
        with contextlib.suppress(ExchangeError):
            black = np.zeros((1, image.channels, image.size, image.size), np.uint8)
            await devices.ask(black, self._deadline_s)

    def _tell_changes(self, session: Session) -> None:
        lost = session.lost()
        for rank in lost.keys() - self._lost.keys():
            self._say(lost[rank])
        for rank in self._lost.keys() - lost.keys():
            self._say(f"device {rank} is back")
        self._lost = lost

    def _say(self, text: str) -> None:
        """One line for who reads the log, not the same one again and again."""
        if text != self._said:
            self._lines.write(one_line(f"sepnas serve: {text}"))
        self._said = text


def _problem(session: Session) -> str:
    """What is the matter with each device that cannot do its part."""
    told = {rank: f"device {rank} is {state}" for rank, state in session.health().items() if state != "ready"}
    return "; ".join((told | session.lost()).values())
