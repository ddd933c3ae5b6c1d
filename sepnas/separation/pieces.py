"""Weights of a separated network: pieces of the original's, by the channels that a device has, and selections.

A recipe needs no torch: it is carried out on arrays of any kind that numpy's indexing takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sepnas.separation.atoms import Labels


@dataclass(frozen=True, eq=False)
class WeightPiece:
    """Some channels of an original weight: ``places`` along some of its axes, in the order given."""

    source: str
    places: Mapping[int, Labels]

    def taken(self, weight: Any) -> Any:
        """The piece of the weight, an array of numpy or a tensor of torch."""
        for axis, places in self.places.items():
            index: list[Any] = [slice(None)] * weight.ndim
            index[axis] = places
            weight = weight[tuple(index)]
        return weight


@dataclass(frozen=True, eq=False)
class Selection:
    """A weight of ones and zeros that selects ``places`` of ``size`` channels, of sizes ``dims``."""

    places: Labels
    size: int
    dims: tuple[int, ...]

    def made(self) -> npt.NDArray[np.float32]:
        found = np.zeros((len(self.places), self.size), dtype=np.float32)
        found[np.arange(len(self.places)), self.places] = 1
        return found.reshape(self.dims)


Recipe = Mapping[str, WeightPiece | Selection]
"""How each weight of a separated network is made, by name."""


def runs(places: Labels) -> list[tuple[int, int]]:
    """The runs of places that follow each other, as ranges."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(each[0]), int(each[-1]) + 1) for each in np.split(places, breaks)]
