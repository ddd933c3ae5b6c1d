"""Keeping the connections of a session alive: pings, and opening them again after their end.

The keeper does not reference the session, so that a session that its owner drops can be collected; the session's
finaliser then tells the keeper.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable

from sepnas.errors import LocalProtocolError
from sepnas.runtime.client.connecting import open_connections
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.dialing import SessionTarget
from sepnas.runtime.unexpected import survives

PULSE_S = 1.0
"""Pause between two pings to a device."""
REOPEN_S = 5.0
"""Time that an attempt to open the connections again may take."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0


class Keeper:
    """A thread that pings the devices and, if the target says ``reconnect``, opens the connections again.

    Args:
        target: the devices to connect to; the first connections are opened here.
        deadline: for opening them (``time.monotonic`` seconds). Raises as :func:`open_connections`.
        reconnect: whether lost connections are opened again, with growing pauses between attempts.
    """

    def __init__(self, target: SessionTarget, deadline: float, reconnect: bool) -> None:
        self._target, self._reconnect = target, reconnect
        self._process = os.getpid()
        self._closed = False
        self._after: Callable[[], None] | None = None
        # a SimpleQueue: its `put` is safe even in a finaliser that interrupts another `put` of the same queue
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._connections = self._open(deadline)
        self._thread = threading.Thread(target=self._run, name="keep", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._connections.close()
            raise

    @property
    def connections(self) -> DeviceConnections:
        """The connections now; raises :class:`LocalProtocolError` in a process that was forked from the session's."""
        return self.here(self._connections)

    def here(self, connections: DeviceConnections) -> DeviceConnections:
        """``connections`` itself; raises as :attr:`connections` does."""
        if self.is_elsewhere():
            raise LocalProtocolError(
                f"the session belongs to process {self._process}, from which this one ({os.getpid()}) was forked; "
                "open a session of its own here"
            )
        return connections

    def is_elsewhere(self) -> bool:
        """Whether this process was forked from the session's."""
        return os.getpid() != self._process

    def is_open(self) -> bool:
        """Whether this process holds the devices."""
        return not (self._closed or self.is_elsewhere() or self._connections.is_over)

    def drop(self, after: Callable[[], None] | None = None) -> None:
        """Leave the devices soon, in the keeper's thread, and then call ``after``; never waits."""
        self._closed, self._after = True, after
        if self.is_elsewhere():
            self._connections.close_descriptors()
        self._calls.put(None)

    def close(self) -> None:
        """Leave the devices; in a forked process only the descriptors are closed."""
        self.drop()
        if not self.is_elsewhere():
            self._connections.close()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the keeper's thread make a call; takes no lock, and so may be used in a finaliser."""
        self._calls.put(call)

    def _open(self, deadline: float) -> DeviceConnections:
        connections = open_connections(self._target, deadline)
        connections.call_when_over(lambda: self._calls.put(None))
        return connections

    def _run(self) -> None:
        while not self._closed:
            with survives("the keeper of a session"):
                self._look()
            self._pause(PULSE_S)
        self._connections.close()
        if self._after is not None:
            self._after()

    def _pause(self, limit_s: float) -> None:
        """Wait until there is something to do, and make the call that is due, if any."""
        with contextlib.suppress(queue.Empty):
            call = self._calls.get(timeout=limit_s)
            if call is not None:
                with survives("the keeper of a session"):
                    call()

    def _look(self) -> None:
        if not self._connections.is_over:
            self._connections.ping_all()
        elif self._reconnect:
            self._open_again()

    def _open_again(self) -> None:
        """Try until it succeeds, or until the session is closed."""
        self._connections.leave()
        pause_s = _MIN_PAUSE_S
        while not self._closed:
            try:
                self._connections = self._open(time.monotonic() + REOPEN_S)
                return
            except Exception:  # the keeper outlives any error of an attempt
                self._pause(pause_s)
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
