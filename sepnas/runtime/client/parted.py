"""Devices that have lost each other while the client still reaches both."""

from __future__ import annotations

import time

_PARTED_S = 0.3
"""Time after which such a pair gets help: the loss of one device is often reported before it is noticed here."""


class PartedPairs:
    """Collects the reports of devices about each other; the caller holds the router's lock."""

    def __init__(self) -> None:
        self._since: dict[tuple[int, int], float] = {}

    def note(self, rank: int, other: int) -> None:
        """``rank`` reports that it has lost ``other``."""
        self._since.setdefault((min(rank, other), max(rank, other)), time.monotonic())

    def take_due(self) -> list[tuple[int, int]]:
        """The pairs, lower rank first, that have been parted long enough; each is returned once."""
        now = time.monotonic()
        due = [pair for pair, since in self._since.items() if now - since >= _PARTED_S]
        for pair in due:
            del self._since[pair]
        return due
