"""A limit of processor time for a block."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LateError(Exception):
    """A scheme took longer than it was given."""


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raise :class:`LateError` after this much processor time."""

    def stop(signum: int, frame: Any) -> None:
        raise LateError(f"more than {limit_s:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
