"""Deals out items to bins of given sizes such that the sum of their gains is greatest: the transportation problem.

From any start, items move along cycles of bins, each item to the next bin, as long as a cycle gains: without such a
cycle the sum is greatest (Klein 1967). With few bins a cycle is found at once, so that thousands of items take
milliseconds; an assignment to as many slots as there are items takes the cube of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sepnas.separation.atoms import Labels

Matrix = npt.NDArray[np.float64]
_LEAST_GAIN = 1e-12
"""Cycles that gain less, as a share of the largest gain, are rounding."""


def dealt(gains: Matrix, sizes: Sequence[int], start: Labels | None = None) -> Labels:
    """The bin of each item ``(items,)``; ``gains`` ``(items, bins)``, and ``sizes`` ``(bins,)`` add up to the items.

    ``start`` is a solution of these sizes to begin with: one near the best saves time.
    """
    found = np.repeat(np.arange(len(sizes)), sizes) if start is None else start.copy()
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
    """A cycle of bins, each once, whose moves together gain more than ``least``; empty if there is none.

    The gains of paths grow by one bin between after the other (Floyd and Warshall).
    """
    paths, following = gains.copy(), np.tile(np.arange(len(gains)), (len(gains), 1))
    for between in range(len(gains)):
        through = paths[:, between, None] + paths[between]
        better = through > paths
        paths = np.where(better, through, paths)
        following = np.where(better, following[:, between, None], following)
        gaining = np.flatnonzero(np.diag(paths) > least)
        if len(gaining):
            return _simple(int(gaining[0]), following, gains)
    return []


def _simple(first: int, following: Labels, gains: Matrix) -> list[int]:
    """The closed path from a bin to itself, without loops, which gain nothing; or a loop that does."""
    path, bin_ = [first], int(following[first, first])
    while bin_ != first:
        if bin_ in path:
            loop = path[path.index(bin_) :]
            if sum(gains[a, b] for a, b in pairwise([*loop, bin_])) > 0:
                return loop
            path = path[: path.index(bin_)]
        path.append(bin_)
        bin_ = int(following[bin_, first])
    return path
