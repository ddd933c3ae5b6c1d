"""Deals out items to bins of given sizes such that the sum of their gains is greatest: the transportation problem.

From any start, items move along cycles of bins, each item to the next bin, as long as a cycle gains: without such a
cycle the sum is greatest (Klein 1967). From a deal that is nearly the best, few cycles are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.separation.atoms import Labels

Matrix = npt.NDArray[np.float64]
_LEAST_GAIN = 1e-12
"""Cycles that gain less, as a share of the largest gain, are rounding."""


def dealt(gains: Matrix, sizes: Sequence[int], start: Labels | None = None) -> Labels:
    """The bin of each item ``(items,)``, given ``gains`` ``(items, bins)`` and the bins' ``sizes``.

    ``start`` is a deal of these sizes to begin with: one near the best saves time. Raises :class:`SpecError` for gains
    that are not finite.
    """
    if not np.isfinite(gains).all():
        raise SpecError(
            "grouping channels: importances are not finite; weights or images hold values that are too large"
        )
    found = np.repeat(np.arange(len(sizes)), sizes) if start is None else start.copy()
    assert np.bincount(found, minlength=len(sizes)).tolist() == list(sizes)
    least = _LEAST_GAIN * float(np.abs(gains).max(initial=0.0))
    moves = _Moves(gains, found)
    while cycle := _gaining_cycle(moves.gains, least):
        moves.make(cycle)
    return found


class _Moves:
    """The best move of an item from each bin to each other one; ``bins`` is changed in place."""

    def __init__(self, item_gains: Matrix, bins: Labels) -> None:
        self.item_gains, self.bins, count = item_gains, bins, item_gains.shape[1]
        self.gains, self.items = np.full((count, count), -np.inf), np.zeros((count, count), dtype=np.int64)
        self._find(range(count))

    def make(self, cycle: Sequence[int]) -> None:
        """Move the best item of each bin of a cycle to the next bin."""
        for source, target in pairwise([*cycle, cycle[0]]):
            self.bins[self.items[source, target]] = target
        self._find(cycle)

    def _find(self, sources: Sequence[int]) -> None:
        for source in sources:
            own = np.flatnonzero(self.bins == source)
            if len(own):
                gains = self.item_gains[own] - self.item_gains[own, source, None]
                best = gains.argmax(0)
                self.gains[source], self.items[source] = gains[best, np.arange(len(best))], own[best]
                self.gains[source, source] = -np.inf


def _gaining_cycle(gains: Matrix, least: float) -> list[int]:
    """A cycle of bins, each once, whose moves together gain more than ``least``; empty if none gains much more.

    Paths grow by one bin after the other, and only by what gains more than ``least``, so that a bin that is reached
    over itself lies on such a cycle (Bellman and Ford).
    """
    reached, before = np.zeros(len(gains)), np.full(len(gains), -1)
    while True:
        through = reached[:, None] + gains
        values = through.max(0)
        better = values > reached + least
        if not better.any():
            return []
        reached, before = np.where(better, values, reached), np.where(better, through.argmax(0), before)
        if cycle := _cycle(before):
            return cycle


def _cycle(before: Labels) -> list[int]:
    """A cycle among bins, given the one before each, -1 for none; in the direction of moves."""
    left = set(np.flatnonzero(before >= 0).tolist())
    while left:
        path = [left.pop()]
        while (bin_ := int(before[path[-1]])) in left:
            left.remove(bin_)
            path.append(bin_)
        if bin_ in path:
            return path[path.index(bin_) :][::-1]
    return []
