"""Quantities as people type them: ``200KB``, ``20ms``, ``0.5J``, ``95%``.

Each function reads one kind and raises typer's ``BadParameter``, which names the option, with what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import typer

from sepnas.runtime.client.session import MAX_DEADLINE_S

_LEAST_DEADLINE_S = 0.001
_SI = ("", "k", "M", "G")
_BYTES = {
    "": 1.0,
    **{f"{prefix}B": 1000.0**power for power, prefix in enumerate(_SI)},
    **{f"{prefix}iB": 1024.0**power for power, prefix in enumerate(_SI) if prefix},
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_JOULES = {"uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(\S*)\s*", re.IGNORECASE)


def size_bytes(text: str | float) -> float:
    """``200KB`` (1000 bytes each), ``64MiB`` (1024 x 1024 each) or ``50000``."""
    return _quantity(
        text, {unit.lower(): size for unit, size in _BYTES.items()}, "200KB, 1.5MB, 64MiB or 50000 (bytes)"
    )


def time_s(text: str | float) -> float:
    """``20ms``; a bare number is refused, for nobody can tell seconds from milliseconds."""
    return _quantity(text, _SECONDS, "a number with its unit us, ms or s, such as 20ms")


def deadline_s(text: str | float) -> float:
    """``100ms``, or a bare number of seconds; from a millisecond to a day."""
    seconds = _quantity(text, _SECONDS | {"": 1.0}, "seconds, or a number with its unit us, ms or s, such as 100ms")
    if not _LEAST_DEADLINE_S <= seconds <= MAX_DEADLINE_S:
        raise typer.BadParameter(f"must be at least 1 ms and at most {MAX_DEADLINE_S} s, got {text}")
    return seconds


def energy_j(text: str | float) -> float:
    """``0.5J``; a bare number is refused."""
    return _quantity(text, _JOULES, "a number with its unit uJ, mJ, J or kJ, such as 0.5J")


def share(text: str | float) -> float:
    """``95%`` or ``0.95``."""
    allowed = "a share such as 95% or 0.95"
    value = _quantity(text, {"": 1.0, "%": 0.01}, allowed)
    if value > 1:
        raise typer.BadParameter(f"{text!r} is more than everything; give {allowed}")
    return value


def _quantity(text: str | float, units: Mapping[str, float], allowed: str) -> float:
    if isinstance(text, float):  # typer parses a default once more
        return text
    found = _NUMBER.fullmatch(text)
    unit = found[2] if found else ""
    if unit.lower() in units:  # a unit that means the same in any case
        unit = unit.lower()
    if found is None or unit not in units:
        raise typer.BadParameter(f"{text!r} cannot be read; give {allowed}")
    # in decimals: 57 % is 0.57, not 0.5700000000000001
    return float(Decimal(found[1]) * Decimal(str(units[unit])))
