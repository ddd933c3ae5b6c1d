"""Bringing lost devices back: each is dialed again and again, with growing pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from sepnas.runtime.unexpected import survives

_MIN_PAUSE_S, _MAX_PAUSE_S, _LOOK_S = 0.1, 2.0, 0.5


class Rejoiner:
    """A thread that brings lost devices back.

    Args:
        find_lost: the ranks that are lost now.
        bring_back: one attempt; whether the device is back.
    """

    def __init__(self, find_lost: Callable[[], Collection[int]], bring_back: Callable[[int], bool]) -> None:
        self._find_lost, self._bring_back = find_lost, bring_back
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._pause_s: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="rejoin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """A device may have been lost; never waits."""
        self._changed.set()

    def close(self) -> None:
        """Begin no more attempts; one that is going on ends by itself."""
        self._closing.set()
        self._changed.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            left_s = _LOOK_S
            with survives("the rejoining of lost devices"):
                left_s = self._try_due()
            self._changed.wait(left_s)

    def _try_due(self) -> float:
        """Try all devices that are due; returns the seconds until the next one is."""
        for rank in self._find_lost():
            if time.monotonic() >= self._due.get(rank, 0.0) and not self._closing.is_set():
                self._try(rank)
        left_s = [self._due.get(rank, 0.0) - time.monotonic() for rank in self._find_lost()]
        return max(0.0, min(left_s, default=_LOOK_S))

    def _try(self, rank: int) -> None:
        is_back = False
        with survives("the rejoining of lost devices"):
            is_back = self._bring_back(rank)
        if is_back:
            self._pause_s.pop(rank, None)
            self._due.pop(rank, None)
        else:
            self._pause_s[rank] = min(_MAX_PAUSE_S, 2 * self._pause_s.get(rank, _MIN_PAUSE_S / 2))
            self._due[rank] = time.monotonic() + self._pause_s[rank]
