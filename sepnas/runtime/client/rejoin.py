"""Bringing devices back that a session has lost: dialed again and again, with longer pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from sepnas.runtime.unexpected import survives

_LEAST_PAUSE_S, _MOST_PAUSE_S, _LOOK_S = 0.1, 2.0, 0.5


class Rejoiner:
    """A thread that brings lost devices back.

    Args:
        lost: the ranks that are lost now.
        bring_back: tries it once; whether the device is back.
    """

    def __init__(self, lost: Callable[[], Collection[int]], bring_back: Callable[[int], bool]) -> None:
        self._lost, self._bring_back = lost, bring_back
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._pause_s: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="rejoin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """Some device may be lost."""
        self._changed.set()

    def close(self) -> None:
        """Try no more; what is being tried ends by itself."""
        self._closing.set()
        self._changed.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            left_s = _LOOK_S
            with survives("who brings lost devices back"):
                left_s = self._round()
            self._changed.wait(left_s)

    def _round(self) -> float:
        """Try all that are due; seconds until the next one is."""
        for rank in self._lost():
            if time.monotonic() >= self._due.get(rank, 0.0) and not self._closing.is_set():
                self._try(rank)
        left_s = [self._due.get(rank, 0.0) - time.monotonic() for rank in self._lost()]
        return max(0.0, min(left_s, default=_LOOK_S))

    def _try(self, rank: int) -> None:
        back = False
        with survives("who brings lost devices back"):
            back = self._bring_back(rank)
        if back:
            self._pause_s.pop(rank, None)
            self._due.pop(rank, None)
        else:
            self._pause_s[rank] = min(_MOST_PAUSE_S, 2 * self._pause_s.get(rank, _LEAST_PAUSE_S / 2))
            self._due[rank] = time.monotonic() + self._pause_s[rank]
