"""Weights of a separated network: pieces of the original's, by the channels that a device has, and mixtures.

A recipe needs no torch: it is carried out on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.separation.atoms import Labels
from sepnas.separation.importance import Weights, weight_of
from sepnas.separation.mixtures import Estimate
from sepnas.separation.relations import MixingLayer
from sepnas.separation.statistics import Array

Message: TypeAlias = tuple[str, int | None, int]
"""A message between devices: the tensor, its source (None: each other device, of its tile), its destination."""


class Ingredient(Protocol):
    """How a weight of a separated network is made."""

    def made(self, weights: Weights) -> npt.NDArray[np.generic]:
        """The weight, given those of the original by name."""


@dataclass(frozen=True, eq=False)
class WeightPiece:
    """Some channels of an original weight: ``places`` along some of its axes, in the order given."""

    source: str
    places: Mapping[int, Labels]

    def made(self, weights: Weights) -> npt.NDArray[np.generic]:
        weight = weights[self.source]
        for axis, places in self.places.items():
            weight = np.take(weight, places, axis)
        return weight


@dataclass(frozen=True, eq=False)
class MixingWeight:
    """The weight of a layer that makes mixtures ``(K, C)`` of channels, of sizes ``dims``."""

    mixtures: Array
    dims: tuple[int, ...]

    def made(self, weights: Weights) -> npt.NDArray[np.generic]:
        return self.mixtures.astype(np.float32).reshape(self.dims)


@dataclass(frozen=True, eq=False)
class EstimatedInput:
    """The weight of a layer for ``outputs`` that reads an estimate of its input's channels."""

    layer: MixingLayer
    outputs: Labels
    estimate: Estimate

    def made(self, weights: Weights) -> npt.NDArray[np.generic]:
        taken = weight_of(self.layer, weights)[self.outputs]
        found = np.moveaxis(np.tensordot(taken, self.estimate.matrix, (1, 0)), -1, 1)
        out_axis = self.layer.relation.operands[self.layer.weight].axis
        assert self.layer.weight_axis is not None
        return np.moveaxis(found, (0, 1), (out_axis, self.layer.weight_axis)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class EstimatedBias:
    """The bias of the same layer, given the name of the original's, if it has one."""

    layer: MixingLayer
    outputs: Labels
    estimate: Estimate
    source: str | None

    def made(self, weights: Weights) -> npt.NDArray[np.generic]:
        taken = weight_of(self.layer, weights)[self.outputs]
        shift = np.tensordot(taken, self.estimate.offset, (1, 0)).reshape(len(self.outputs), -1).sum(1)
        before = 0 if self.source is None else np.asarray(weights[self.source], dtype=np.float64)[self.outputs]
        return np.asarray(shift + before).astype(np.float32)


Recipe = Mapping[str, Ingredient]
"""How each weight of a separated network is made, by name."""


def runs(places: Labels) -> list[tuple[int, int]]:
    """The runs of places that follow each other, as ranges."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(each[0]), int(each[-1]) + 1) for each in np.split(places, breaks)]
