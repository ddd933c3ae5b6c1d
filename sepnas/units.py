"""Numbers for people: counts, bytes, seconds and shares with fitting units (SI: 1 kB is 1000 bytes); short phrases."""

from __future__ import annotations

from collections.abc import Collection

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
# 0.9996 MB has three digits as 1 MB, not as 1000 kB.
_ROUNDED = 0.9995
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def format_bytes(count: float) -> str:
    """``5505024`` as ``5.51 MB``."""
    for size, unit in _BYTES:
        if abs(count) >= _ROUNDED * size:
            return _three_digits(count / size, unit)
    return f"{count:.0f} B"


def time_unit(longest_s: float) -> tuple[float, str]:
    """The unit in which ``longest_s`` is a number from 1: its length in seconds and its name."""
    return next(((size, unit) for size, unit in _SECONDS if longest_s >= _ROUNDED * size), _SECONDS[-1])


def format_seconds(duration_s: float) -> str:
    """``0.01234`` as ``12.3 ms``."""
    if duration_s == 0:
        return "0 s"
    size, unit = time_unit(abs(duration_s))
    return _three_digits(duration_s / size, unit)


def _three_digits(number: float, unit: str) -> str:
    return f"{number:.3g} {unit}" if abs(number) < 999.5 else f"{number:,.0f} {unit}"


def format_share(share: float) -> str:
    """``0.9722`` as ``97.22 %``."""
    return f"{100 * share:.2f} %"


def format_count(count: int, noun: str) -> str:
    """``1`` image, ``1,797`` images."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def format_idle(used: Collection[int], num_devices: int) -> str:
    """Which devices the answer does not need, as a sentence; empty where it needs all."""
    idle = [str(rank) for rank in range(num_devices) if rank not in used]
    if not idle:
        return ""
    *others, last = idle
    if not others:
        return f"device {last} is not needed: nothing that it computes reaches the answer"
    return f"devices {', '.join(others)} and {last} are not needed: nothing that they compute reaches the answer"


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def seconds(value: float) -> str:
    """A time at a readable scale."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} us"
