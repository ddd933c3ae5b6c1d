"""How messages name an option: by its flag on the command line, by its keyword argument in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_on_command_line = False


def option(flag: str, argument: str) -> str:
    """The name of an option for the caller's error message: ``--force`` or ```force=True```."""
    return flag if _on_command_line else f"`{argument}`"


@contextmanager
def command_line() -> Iterator[None]:
    """Name options by their flags within the block; the command line runs its verbs in it."""
    global _on_command_line
    before, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = before
