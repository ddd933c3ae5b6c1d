"""Separated networks in torch: their weights, made from the original's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sepnas.partition.graph import Graph
from sepnas.separation.pieces import Recipe, WeightPiece


def separated_weights(recipe: Recipe, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a separated network, given those of the original by name; pieces keep the original's type."""
    arrays, found = arrays_of(weights), dict[str, Tensor]()
    for name, each in recipe.items():
        made = torch.from_numpy(np.ascontiguousarray(each.made(arrays)))
        found[name] = made.to(weights[each.source].dtype) if isinstance(each, WeightPiece) else made
    return found


def shaped_as(graph: Graph, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the shapes that a graph has for them."""
    return {name: x.reshape(graph.tensors[name].dims) for name, x in weights.items()}


def arrays_of(weights: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.generic]]:
    """Weights for numpy, which has no bfloat16."""
    return {name: (x.float() if x.dtype == torch.bfloat16 else x).detach().numpy() for name, x in weights.items()}
