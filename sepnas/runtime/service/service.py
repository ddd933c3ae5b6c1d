"""Answering many clients through one session, with a bounded queue.

Independent of the protocol to the clients; HTTP is in ``http_app.py``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.verify import verify_client
from sepnas.errors import DeadlineError
from sepnas.runtime.client.answer import Answer
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.classes import likeliest
from sepnas.runtime.client.images import Resize, resize_of
from sepnas.runtime.client.inputs import Inputs
from sepnas.runtime.service.decoder_processes import Order
from sepnas.runtime.service.decoders import MAX_AT_ONCE, MAX_PIXELS, Decoders
from sepnas.runtime.service.places import Places
from sepnas.runtime.service.supervised_session import OPEN_S, SupervisedSession
from sepnas.runtime.service.tensor_bodies import parse_body
from sepnas.runtime.service.turns import Turns
from sepnas.runtime.transport.handshake import check_loopback
from sepnas.spec.hosts import Hosts, parse_address
from sepnas.spec.preparation import Preparation


@dataclass(frozen=True)
class Health:
    """Whether requests can be answered, the state of each device, and the problem if they cannot."""

    ready: bool
    devices: dict[int, str]
    problem: str = ""


@dataclass(frozen=True)
class Classified:
    """The likeliest classes of one image with their probabilities, and the answer and the plan that they come from."""

    classes: list[tuple[str, float]]
    answer: Answer
    plan: str


class Service:
    """Asks the devices of a deployment; ``async with`` runs it.

    Args:
        deployment, devices, insecure, on_missing: as for :class:`Session`; the files are read again whenever a session
            is opened, so that other addresses or a new export need no restart.
        timeout_s: from the arrival of a request to its answer, waiting included.
        in_flight: number of requests at the devices at once.
        queue: number of requests that may wait.
        resize: treatment of an image of another size; by default as in training, or as the network's configuration
            says.
        top: number of classes in an answer.
        max_pixels: bound of an image; a separate process decodes it and is killed at the deadline.

    The service starts without its devices: they are dialed until they are there, with growing pauses, and again when a
    session is over. Raises :class:`DeploymentError` and :class:`SpecError` for a wrong deployment or hosts file.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 1.0,
        insecure: bool = False,
        on_missing: OnMissing | None = None,
        in_flight: int = 4,
        queue: int = 16,
        resize: Resize | None = None,
        top: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = Path(deployment)
        self._on_missing, self._resize, self._top = on_missing, resize, top
        self._timeout_s, self._in_flight = timeout_s, in_flight
        self._decoders = Decoders(max_pixels)
        # the devices never wait for requests: even when the bound is lowest, enough wait to follow those in flight
        self.places = Places(in_flight, queue, min_limit=2 * in_flight + MAX_AT_ONCE)
        new_session = partial(
            AsyncSession, folder, devices, timeout_s=OPEN_S, insecure=insecure, on_missing=on_missing,
            in_flight=in_flight,
        )  # fmt: skip
        manifest = verify_client(folder, uses_hosts=devices is None)
        self._supervised = SupervisedSession(new_session, manifest, probe_timeout_s=timeout_s)
        _check_addresses(Hosts.load(devices or folder / "hosts.yaml"), self.ranks, insecure)
        new_session()  # checks the remaining arguments now

    @property
    def manifest(self) -> Manifest:
        """The manifest of the latest session, or of the deployment before there is one."""
        return self._supervised.manifest

    @property
    def on_missing(self) -> OnMissing:
        """``strict`` or ``degrade``."""
        return self._on_missing or self.manifest.on_missing

    @property
    def resize(self) -> Resize | Preparation:
        """The treatment of images; ``no`` if the network takes something else."""
        image = self.manifest.network.image
        return "no" if image is None else resize_of(image, self._resize)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The devices that the client talks to."""
        return self._supervised.ranks

    async def __aenter__(self) -> Self:
        self._starts, self._turns = Turns(self._in_flight + MAX_AT_ONCE), Turns(self._in_flight)
        await self._decoders.__aenter__()
        await self._supervised.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._supervised.__aexit__(kind, error, traceback)
        await self._decoders.__aexit__(kind, error, traceback)

    def health(self) -> Health:
        """Whether requests can be answered now, and the states of the devices."""
        problem = self._supervised.problem()
        if not self._decoders.ready:
            problem = problem or "the process that decodes images is being started; try again in a moment"
        return Health(not problem, self._supervised.states(), problem)

    async def classify(self, image: bytes, plan: str | None = None) -> Classified:
        """Classify an encoded image under a plan, by default the deployment's; raises as :meth:`infer_image` does."""
        name = plan or self.manifest.default_plan
        answer = await self.infer_image(image, name)
        return Classified(likeliest(answer.logits, self.manifest.classes, self._top)[0], answer, name)

    async def infer_image(self, image: bytes, plan: str | None = None) -> Answer:
        """The outputs for an encoded image under a plan, by default the deployment's; cancelling the call cancels the
        request on the devices.

        Raises :class:`SpecError` (an unknown plan), :class:`DataError` (not an image, wrong size, too many pixels),
        :class:`PeerUnreachableError` (no session is open, and why), and the errors of :meth:`Session.ask`.
        """

        async def decoded(deadline: float) -> Inputs:
            order = Order(self.manifest.image, self._resize, self._decoders.max_pixels)
            return (await self._decoders.decode(image, order, deadline))[None]

        return await self._answer(decoded, plan)

    async def infer(self, kind: str, body: bytes, plan: str | None = None) -> Answer:
        """The outputs for the tensors in a body of this media type (:mod:`sepnas.runtime.service.tensor_bodies`).

        Raises :class:`DataError` (not such a body, or not the network's inputs), and as :meth:`infer_image` does.
        """

        async def parsed(deadline: float) -> Inputs:
            return await asyncio.to_thread(parse_body, kind, body, self.manifest.inputs_of(plan))

        return await self._answer(parsed, plan)

    async def _answer(self, read: Callable[[float], Awaitable[Inputs]], name: str | None) -> Answer:
        """The answer for the inputs that ``read`` makes until a moment (``time.monotonic`` seconds)."""
        plan = name or self.manifest.default_plan
        deadline = time.monotonic() + self._timeout_s
        try:
            async with self._starts.turn(deadline):  # a request that gives up while it waits here has cost nothing
                _ = self._supervised.session  # without a session, decoding would be in vain
                self.manifest.plan(plan)
                found = await self._ask(await read(deadline), deadline, plan)
        except asyncio.CancelledError:
            self._note_gave_up()
            raise
        self.places.note_answer()
        return found

    def _note_gave_up(self) -> None:
        self.places.note_gave_up()
        for turns in (self._starts, self._turns, self._decoders):
            turns.gave_up()

    async def _ask(self, inputs: Inputs, deadline: float, plan: str) -> Answer:
        async with self._turns.turn(deadline):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(f"the request waited behind others for {self._timeout_s:g} s")
            return await self._supervised.session.ask(inputs, left_s, plan=plan)


def _check_addresses(hosts: Hosts, ranks: tuple[int, ...], insecure: bool) -> None:
    """Raise :class:`SpecError` for a missing address, or for an insecure session that would leave this machine."""
    for rank in ranks:
        host, _port = parse_address(hosts.address(rank))
        if insecure:
            check_loopback(host)
