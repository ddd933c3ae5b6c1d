"""Checks of arguments from Python: each raises :class:`SpecError` with the argument's name, its value and the range."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any

from sepnas.errors import SpecError
from sepnas.spec.document import short

MAX_COUNT = 1_000_000
MAX_THREADS = 1024
MAX_S = 366 * 86_400
"""Maximum of a time in seconds: a year."""


def check_integer(name: str, value: Any, lowest: int | None, highest: int | None) -> None:
    """An integer from ``lowest`` to ``highest`` (None: no limit), of Python or numpy; a bool is none."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if lowest is None or highest is None:
        allowed, fits = "an integer", is_integer
    else:
        allowed = f"an integer in {lowest}..{highest}"
        fits = is_integer and lowest <= value <= highest
    if not fits:
        raise SpecError(f"`{name}` must be {allowed}, got {_told(value)}")


def check_number(name: str, value: Any, lowest: float, highest: float) -> None:
    """A number from ``lowest`` to ``highest``, neither nan nor infinite, of Python or numpy; a bool is none."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and lowest <= value <= highest):
        raise SpecError(f"`{name}` must be a number in {lowest:g}..{highest:g}, got {_told(value)}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise SpecError(f"`{name}` must be one of {', '.join(allowed)}, got {_told(value)}")


def _told(value: object) -> str:
    try:
        return short(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer of thousands of digits"
