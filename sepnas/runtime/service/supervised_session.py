"""One session with the devices, opened again whenever it is over."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from sepnas.deployment.manifest import Manifest
from sepnas.errors import ExchangeError, PeerLostError, PeerUnreachableError
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.session import Session
from sepnas.runtime.line_writer import LineWriter
from sepnas.terminal import one_line

OPEN_S = 5.0
"""Time that opening a session may take."""
_PROBE_S = 1.0
"""Pause between two probes of devices on which requests fail."""
_MIN_PAUSE_S, _MAX_PAUSE_S, _LOOK_S = 0.1, 2.0, 0.1


class SupervisedSession:
    """Keeps a session open while ``async with`` runs it; the devices are dialed with growing pauses.

    Args:
        new_session: makes a session that is not open yet.
        manifest: the deployment's manifest; replaced by that of each session that is opened.
        probe_timeout_s: deadline of a request that probes the devices.
    """

    def __init__(self, new_session: Callable[[], AsyncSession], manifest: Manifest, probe_timeout_s: float) -> None:
        self._new_session, self._probe_timeout_s = new_session, probe_timeout_s
        self.manifest = manifest
        self._session: AsyncSession | None = None
        self._lost: dict[int, str] = {}
        self._problem = "the devices are being connected; try again in a moment"
        self._last_line, self._lines = "", LineWriter(sys.stderr)
        self._next_probe = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The devices that the client talks to."""
        return self.manifest.working

    @property
    def session(self) -> AsyncSession:
        """The open session; raises :class:`PeerUnreachableError`, which says why there is none."""
        if self._session is None:
            raise PeerUnreachableError(self._problem)
        return self._session

    def states(self) -> dict[int, str]:
        """The state of each device; see :meth:`Session.health`."""
        if self._session is None:
            return {rank: self._lost.get(rank, "not connected") for rank in self.ranks}
        return self._session.session.health()

    def problem(self) -> str:
        """The reason why requests cannot be answered, or an empty string if they can."""
        if self._session is None:
            return self._problem
        session = self._session.session
        return "" if session.can_answer() else _problem_of(session)

    async def _keep_open(self) -> None:
        """Open a session, wait until it is over, and repeat."""
        pause_s = _MIN_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                async with self._new_session() as session:
                    await self._watch(session)
            except Exception as error:  # the service outlives any error of a session
                self._problem = str(error) or type(error).__name__
                self._log(f"waits for the devices: {self._problem}")
            if time.monotonic() - begun > OPEN_S + _MAX_PAUSE_S:
                pause_s = _MIN_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)

    async def _watch(self, opened: AsyncSession) -> None:
        """Offer the session until it is over; then raises :class:`PeerLostError` with the reason."""
        session = opened.session
        self.manifest = session.manifest
        self._session, self._lost = opened, {}
        self._log(self._readiness(session))
        try:
            while not session.is_over:
                self._log_changes(session)
                await self._probe(opened)
                await asyncio.sleep(_LOOK_S)
        finally:
            self._lost = session.lost()
            self._problem = "; ".join(self._lost.values()) or "a device ended the session"
            self._session = None  # last: from now on the problem is told
        raise PeerLostError(self._problem)

    def _readiness(self, session: Session) -> str:
        """How many devices are ready; a session that degrades may open without some."""
        ready = len(set(self.ranks) - session.lost().keys())
        of_all = "" if ready == len(self.ranks) else f" of {len(self.ranks)}"
        return f"{ready}{of_all} devices are ready"

    async def _probe(self, opened: AsyncSession) -> None:
        """Send zeros (of an image: black) now and then while requests fail on a device.

        Clients may stop asking while the service reports the failure, and nobody would notice that it is over.
        """
        if time.monotonic() < self._next_probe or not opened.session.is_failing():
            return
        self._next_probe = time.monotonic() + _PROBE_S
        with contextlib.suppress(ExchangeError):
            await opened.ask(_zeros(self.manifest), self._probe_timeout_s)

    def _log_changes(self, session: Session) -> None:
        lost = session.lost()
        for rank in lost.keys() - self._lost.keys():
            self._log(lost[rank])
        for rank in self._lost.keys() - lost.keys():
            self._log(f"device {rank} is back")
        self._lost = lost

    def _log(self, text: str) -> None:
        """Write a line, unless it repeats the last one."""
        if text != self._last_line:
            self._lines.write(one_line(f"sepnas serve: {text}"))
        self._last_line = text


def _zeros(manifest: Manifest) -> dict[str, npt.NDArray[np.generic]]:
    """One sample of each input of the default plan."""
    return {
        name: np.zeros((1, *facts.shape.dims), np.float32 if facts.image is None else np.uint8)
        for name, facts in manifest.inputs_of().items()
    }


def _problem_of(session: Session) -> str:
    """The state of each device that is not ready, or the reason why it is lost."""
    states = {rank: f"device {rank} is {state}" for rank, state in session.health().items() if state != "ready"}
    return "; ".join((states | session.lost()).values())
