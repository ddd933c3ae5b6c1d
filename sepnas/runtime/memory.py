"""The bound on message data that waits in memory, and the return of freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache

MAX_KEPT_BYTES = 1 << 30
"""Upper bound on the payloads queued in one session, and on the bytes queued for one peer, each ..."""
_SHARE_OF_MEMORY = 4
"""... but never more than the machine's memory divided by this number."""


@cache
def max_kept_bytes() -> int:
    """The bound on this machine, in bytes."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if memory_bytes > 0:
            return min(MAX_KEPT_BYTES, memory_bytes // _SHARE_OF_MEMORY)
    return MAX_KEPT_BYTES


def give_back() -> None:
    """Return freed memory, which the C library would keep, to the system; does nothing if that is unsupported."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)
