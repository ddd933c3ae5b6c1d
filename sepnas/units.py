"""Parsers and formatters for quantities in human-readable form, and a few short phrases.

Formatters use SI prefixes (1 kB is 1000 bytes). Parsers take ``200KB``, ``64MiB``, ``20ms``, ``0.5J`` or ``95%``,
return the base unit, and raise :class:`ValueError` that names the allowed forms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
# In three digits 999.6 kB is 1 MB, not 1000 kB.
_ROUNDED = 0.9995
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_LONG = 1e15
"""Numbers from here on are written with three digits and an exponent."""


def format_bytes(count: float) -> str:
    """``5505024`` as ``5.51 MB``."""
    for size, unit in _BYTES:
        if abs(count) >= _ROUNDED * size:
            return _three_digits(count / size, unit)
    return f"{count:.0f} B"


def time_unit(longest_s: float) -> tuple[float, str]:
    """The largest unit in which ``longest_s`` is at least 1: its length in seconds and its name."""
    return next(((size, unit) for size, unit in _SECONDS if longest_s >= _ROUNDED * size), _SECONDS[-1])


def format_seconds(duration_s: float) -> str:
    """``0.01234`` as ``12.3 ms``."""
    if duration_s == 0:
        return "0 s"
    size, unit = time_unit(abs(duration_s))
    return _three_digits(duration_s / size, unit)


def format_joules(energy_j: float) -> str:
    """``0.01234`` as ``0.0123 J``."""
    return f"{energy_j:.3g} J"


def _three_digits(number: float, unit: str) -> str:
    return f"{number:.3g} {unit}" if abs(number) < 999.5 else f"{_decimals(number, 0)} {unit}"


def _decimals(value: float, places: int) -> str:
    """1234.5 as 1,234.50, with so many decimal places."""
    return f"{value:,.{places}f}" if abs(value) < _LONG else f"{value:.3g}"


def format_rate(per_s: float) -> str:
    """``12.345`` as ``12.3/s``."""
    return f"{per_s:.3g}/s" if abs(per_s) < 999.5 else f"{_decimals(per_s, 0)}/s"


def format_share(share: float) -> str:
    """``0.9722`` as ``97.22 %``."""
    return f"{100 * share:.2f} %" if abs(share) < _LONG else f"{100 * share:.3g} %"


def format_count(count: int, noun: str) -> str:
    """A count with its noun: ``1 image``, ``1,797 images``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def format_threads(threads: Collection[int]) -> str:
    """The threads of several devices: ``4 threads each``, or ``1 to 6 threads each``."""
    least, most = min(threads), max(threads)
    return f"{format_count(most, 'thread') if least == most else f'{least} to {most} threads'} each"


def format_names(names: Iterable[str], joint: str = "or") -> str:
    """``int8``, ``int4`` and ``int2`` as ``int8, int4 or int2``."""
    *others, last = names
    return f"{', '.join(others)} {joint} {last}" if others else last


def format_idle(used: Collection[int], num_devices: int) -> str:
    """A sentence naming the devices that the answer does not need; empty if it needs all."""
    idle = [str(rank) for rank in range(num_devices) if rank not in used]
    if not idle:
        return ""
    *others, last = idle
    if not others:
        return f"device {last} is not needed: nothing that it computes reaches the answer"
    return f"devices {', '.join(others)} and {last} are not needed: nothing that they compute reaches the answer"


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else _decimals(value, 3)


def seconds(value: float) -> str:
    """A time in seconds, in a readable unit."""
    if value >= 1:
        return f"{value:.2f} s" if value < _LONG else f"{value:.3g} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"


_SI = ("", "k", "M", "G")
_BYTES_OF = {
    "": 1.0,
    **{f"{prefix}B".lower(): 1000.0**power for power, prefix in enumerate(_SI)},
    **{f"{prefix}iB".lower(): 1024.0**power for power, prefix in enumerate(_SI) if prefix},
}
_SECONDS_OF = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_JOULES_OF = {"uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3}
_THOUSANDS = r"[0-9]{1,3}(?:,[0-9]{3})+"
_NUMBER = re.compile(rf"\s*({_THOUSANDS}|[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+)\s*([^\s,]*)\s*", re.IGNORECASE)
_MAX_TOLD = 60
_MIN_TIMEOUT_S = 0.001


def parse_bytes(text: str) -> float:
    """``200KB`` (1000 bytes each), ``64MiB`` (1024 x 1024 each) or ``50000``, in bytes."""
    return _quantity(text, _BYTES_OF, "200KB, 1.5MB, 64MiB or 50000 (bytes)")


def parse_seconds(text: str) -> float:
    """``20ms`` in seconds; a number without a unit is refused, because it could mean milliseconds."""
    return _quantity(text, _SECONDS_OF, "a number with its unit us, ms or s, such as 20ms")


def parse_timeout(text: str, max_s: float) -> float:
    """``100ms``, or a number of seconds without a unit; from 1 ms to ``max_s`` seconds."""
    allowed = "seconds, or a number with its unit us, ms or s, such as 100ms"
    timeout_s = _quantity(text, _SECONDS_OF | {"": 1.0}, allowed)
    if not _MIN_TIMEOUT_S <= timeout_s <= max_s:
        raise ValueError(f"must be at least 1 ms and at most {max_s} s, got {text}")
    return timeout_s


def parse_joules(text: str) -> float:
    """``0.5J`` in joules; a number without a unit is refused."""
    return _quantity(text, _JOULES_OF, "a number with its unit uJ, mJ, J or kJ, such as 0.5J")


def parse_rate(text: str) -> float:
    """``20/s`` or ``20``, per second."""
    return _quantity(text, {"": 1.0, "/s": 1.0}, "a number per second, such as 20/s")


def parse_share(text: str) -> float:
    """``95%`` or ``0.95`` as a number from 0 to 1."""
    allowed = "a share such as 95% or 0.95"
    share = _quantity(text, {"": 1.0, "%": 0.01}, allowed)
    if share > 1:
        raise ValueError(f"{_short(text)} is more than everything; give {allowed}")
    return share


def _quantity(text: str, units: Mapping[str, float], allowed: str) -> float:
    found = _NUMBER.fullmatch(text)
    unit = found[2] if found else ""
    if unit.lower() in units:  # "KB" and "MS" mean the same as "kB" and "ms"; "MJ" does not mean "mJ"
        unit = unit.lower()
    if found is None or unit not in units:
        raise ValueError(f"{_short(text)} cannot be read; give {allowed}")
    written = found[1].replace(",", "")
    try:
        # Decimal arithmetic: 57 % is 0.57, not 0.5700000000000001.
        value = float(Decimal(written) * Decimal(str(units[unit])))
    except ArithmeticError:  # an exponent of many digits
        value = math.inf
    is_zero = not re.search("[1-9]", re.split("e", written, flags=re.IGNORECASE)[0])
    if not math.isfinite(value) or (value == 0 and not is_zero):
        raise ValueError(f"{_short(text)} is too large or too small for a number; give {allowed}")
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]}...")
