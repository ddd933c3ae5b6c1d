"""A session's connections while it is open: are the devices alive, and what becomes of the connections at their end.

The keeper knows nothing of the session, so that a session that its owner has dropped can be collected: its finaliser
tells the keeper.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sepnas.errors import LocalProtocolError
from sepnas.runtime.client.connections import Fleet
from sepnas.runtime.unexpected import survives

PULSE_S = 1.0
"""Pause between two pings to a device."""
REOPEN_S = 5.0
"""How long opening the connections again may take before it is tried anew."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0


class OpenFleet(Protocol):
    """Opens the connections to all devices until a deadline (``time.monotonic`` seconds)."""

    def __call__(self, *, deadline: float) -> Fleet: ...


class Keeper:
    """A thread that pings the devices and, to ``reconnect``, opens the connections again when they are over.

    Args:
        deadline: for the first time; raises what ``open_fleet`` does.
        reconnect: whether lost connections are opened again, with longer and longer pauses.
    """

    def __init__(self, open_fleet: OpenFleet, deadline: float, reconnect: bool) -> None:
        self._open_fleet, self._reconnect = open_fleet, reconnect
        self._process = os.getpid()
        self._closed = False
        self._after: Callable[[], None] | None = None
        # its `put` may be called anywhere, also while garbage is collected inside the queue itself
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._fleet = self._opened(deadline)
        self._thread = threading.Thread(target=self._run, name="keep", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._fleet.close()
            raise

    def _opened(self, deadline: float) -> Fleet:
        fleet = self._open_fleet(deadline=deadline)
        fleet.on_over = lambda: self._wake.put(None)
        return fleet

    @property
    def fleet(self) -> Fleet:
        """The connections now; raises :class:`LocalProtocolError` in a process that was forked from the session's."""
        return self.here(self._fleet)

    def here(self, fleet: Fleet) -> Fleet:
        """These connections, unless this process was forked."""
        if os.getpid() != self._process:
            raise LocalProtocolError(
                f"the session belongs to process {self._process}, from which this one ({os.getpid()}) was forked; "
                "open a session of its own here"
            )
        return fleet

    def is_elsewhere(self) -> bool:
        """Whether this process was forked from the session's."""
        return os.getpid() != self._process

    def is_open(self) -> bool:
        """Whether it holds the devices, in this process."""
        return not (self._closed or self.is_elsewhere() or self._fleet.is_over)

    def drop(self, after: Callable[[], None] | None = None) -> None:
        """The session is gone: leave the devices soon, and do what comes after; nothing is waited for here."""
        self._closed, self._after = True, after
        if self.is_elsewhere():
            self._fleet.close_descriptors()
        self._wake.put(None)

    def close(self) -> None:
        """Leave the devices; in a process that was forked only descriptors are closed."""
        self.drop()
        if not self.is_elsewhere():
            self._fleet.close()

    def _run(self) -> None:
        while not self._closed:
            with survives("who keeps a session open"):
                self._look()
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=PULSE_S)
        self._fleet.close()
        if self._after is not None:
            self._after()

    def _look(self) -> None:
        if not self._fleet.is_over:
            self._fleet.pulse()
        elif self._reconnect:
            self._open_again()

    def _open_again(self) -> None:
        """Until it succeeds, or the session is closed."""
        self._fleet.leave()
        pause_s = _MIN_PAUSE_S
        while not self._closed:
            try:
                self._fleet = self._opened(time.monotonic() + REOPEN_S)
                return
            except Exception:  # whatever it is, the keeper outlives it
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=pause_s)
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
