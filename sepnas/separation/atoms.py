"""Atoms: sets of channels, of any tensors, that must lie on one device. A union-find over their numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""The atom of each channel of a tensor."""
EVERYWHERE = -1
"""The label of channels that each device has, such as those of the image."""
TILED = -2
"""In place of a device: each has a tile of all channels (:mod:`sepnas.separation.tiled_layers`)."""
READ_OUT = 0
"""The atom of all that lies on the read-out device."""


class Atoms:
    """Numbers of atoms, some of which are united. The smallest number of united ones stands for all of them."""

    def __init__(self) -> None:
        self._parents = [READ_OUT]

    @property
    def count(self) -> int:
        return len(self._parents)

    def new(self, count: int) -> Labels:
        """The labels of so many channels that nothing ties together yet."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, atom: int) -> int:
        """The number that stands for an atom; :data:`EVERYWHERE` stands for itself."""
        if atom == EVERYWHERE:
            return atom
        while self._parents[atom] != atom:
            self._parents[atom] = atom = self._parents[self._parents[atom]]
        return atom

    def unite(self, atoms: Iterable[int]) -> int:
        """Unite atoms; the number that stands for them. Channels that are everywhere tie nothing together."""
        roots = {root for atom in atoms if (root := self.root(int(atom))) != EVERYWHERE}
        if not roots:
            return EVERYWHERE
        first = min(roots)
        for other in roots:
            self._parents[other] = first
        return first

    def resolved(self, labels: Labels) -> Labels:
        """The labels with the numbers that stand for them."""
        return np.array([self.root(int(label)) for label in labels], dtype=np.int64)
