"""Limits of a session, and the checks of its options."""

from __future__ import annotations

from typing import get_args

from sepnas.deployment.manifest import OnMissing
from sepnas.errors import SpecError

DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 86_400
MAX_IN_FLIGHT = 32
"""Distance from the oldest open request to the newest: devices keep messages of this many requests."""
MAX_TRACES = 256
"""Number of requests that a trace can cover."""


def checked_timeout_s(timeout_s: float) -> float:
    """``timeout_s`` itself; raises :class:`SpecError` outside of (0, :data:`MAX_TIMEOUT_S`]."""
    if not 0 < timeout_s <= MAX_TIMEOUT_S:  # NaN is refused too
        raise SpecError(f"`timeout_s` must be more than 0 and at most {MAX_TIMEOUT_S} seconds, got {timeout_s!r}")
    return timeout_s


def checked_in_flight(in_flight: int) -> int:
    """``in_flight`` itself; raises :class:`SpecError` outside of 1..:data:`MAX_IN_FLIGHT`."""
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
        raise SpecError(f"`in_flight` must lie in 1..{MAX_IN_FLIGHT}, got {in_flight!r}")
    return in_flight


def checked_on_missing(on_missing: OnMissing) -> OnMissing:
    """``on_missing`` itself; raises :class:`SpecError` for an unknown value."""
    if on_missing not in get_args(OnMissing):
        raise SpecError(f"`on_missing` must be one of {', '.join(get_args(OnMissing))}, got {on_missing!r}")
    return on_missing
