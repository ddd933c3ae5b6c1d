"""How much of what peers send one end keeps, and how memory goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache

MAX_KEPT_BYTES = 1 << 30
"""Payloads that wait in one session, and bytes that wait for a peer to read them, are at most so many each ..."""
_SHARE_OF_MEMORY = 4
"""... and at most this part of the machine's memory."""


@cache
def max_kept_bytes() -> int:
    """The bound on this machine."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if memory_bytes > 0:
            return min(MAX_KEPT_BYTES, memory_bytes // _SHARE_OF_MEMORY)
    return MAX_KEPT_BYTES


def give_back() -> None:
    """Return freed memory to the system, which the C library would keep for later; does nothing where it cannot."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)
