"""Quantities of objectives: how their values are parsed and formatted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sepnas.units import (
    format_bytes,
    format_joules,
    format_rate,
    format_seconds,
    format_share,
    parse_bytes,
    parse_joules,
    parse_rate,
    parse_seconds,
    parse_share,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A kind of number, in one base unit.

    ``parse`` reads user input and raises ``ValueError`` that names the allowed forms. ``format`` keeps at least three
    digits, and ``parse`` reads its output. ``highest`` is the largest possible value; a ``whole`` quantity is an
    integer.
    """

    unit: str
    metavar: str
    examples: str
    parse: Callable[[str], float]
    format: Callable[[float], str]
    highest: float | None = None
    whole: bool = False


BYTES = Quantity("B", "SIZE", "200KB, 64KiB, 50000 (bytes)", parse_bytes, format_bytes, whole=True)
SECONDS = Quantity("s", "TIME", "20ms, 800us, 1.5s", parse_seconds, format_seconds)
JOULES = Quantity("J", "ENERGY", "0.5J, 20mJ", parse_joules, format_joules)
SHARE = Quantity("", "SHARE", "95% or 0.95", parse_share, format_share, highest=1.0)
RATE = Quantity("1/s", "RATE", "20/s, 7.5/s", parse_rate, format_rate)
