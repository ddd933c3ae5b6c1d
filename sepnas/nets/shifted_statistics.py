"""Statistics of batch norms in a network that was separated: its original's, as far as the same images leave them.

Measured anew on some images, all statistics would differ from those of training, also where nothing is lost: few
images say little of a mean, and other augmentations have another one. What separating changes is the difference
between both networks on the same images, and only this moves the original's statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepnas.nets.crossings import Crossings
from sepnas.nets.trainable import STATISTICS, TrainableGraph, norms_of
from sepnas.partition.graph import Graph, GraphNode
from sepnas.separation.pieces import Recipe, WeightPiece


@dataclass(frozen=True, eq=False)
class _Moments:
    """The mean and the variance of each channel ``(C,)``."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Moments:
        """Those of a batch ``(B, C, ...)``."""
        variance, mean = torch.var_mean(x.float(), [axis for axis in range(x.dim()) if axis != 1], correction=0)
        return cls(mean, variance)

    def taken(self, piece: WeightPiece) -> _Moments:
        """Those of the channels of a weight's piece."""
        places = piece.places.get(0)
        if places is None:
            return self
        index = torch.as_tensor(places)
        return _Moments(self.mean[index], self.variance[index])


class _Watched(TrainableGraph):
    """Measures what its batch norms take."""

    moments: dict[str, _Moments]
    """Those of a batch, by the name of the running mean."""

    def _normalised(self, node: GraphNode, operands: Mapping[str, Tensor]) -> Tensor:
        self.moments[node.inputs[STATISTICS[0]]] = _Moments.of(operands["input"])
        return super()._normalised(node, operands)


class _Shifted(TrainableGraph):
    """A separated network whose batch norms use the original's statistics, moved by what a batch shows."""

    recipe: Recipe
    original: Mapping[str, _Moments]
    """What the original's batch norms take of the batch."""
    found: defaultdict[str, list[Tensor]]
    """The statistics of each batch, by name."""

    def _normalised(self, node: GraphNode, operands: Mapping[str, Tensor]) -> Tensor:
        piece = self.recipe[node.inputs[STATISTICS[0]]]
        if not isinstance(piece, WeightPiece) or piece.source not in self.original:
            return super()._normalised(node, operands)
        before, now = self.original[piece.source].taken(piece), _Moments.of(operands["input"])
        eps = self.graph.use(node).get("eps", 1e-5)
        moved = (
            operands["running_mean"] + now.mean - before.mean,
            operands["running_var"] * (now.variance + eps) / (before.variance + eps),
        )
        for role, value in zip(STATISTICS, moved, strict=True):
            self.found[node.inputs[role]].append(value)
        return super()._normalised(node, {**operands, **dict(zip(STATISTICS, moved, strict=True))})


class ShiftedStatistics:
    """What the batch norms of a network take of ``samples``, its inputs ``(B, ...)``: measured once."""

    def __init__(self, graph: Graph, weights: Mapping[str, Tensor], samples: Sequence[tuple[Tensor, ...]]) -> None:
        self.samples, self.moments = samples, list[Mapping[str, _Moments]]()
        names = [node.inputs[STATISTICS[0]] for node in norms_of(graph)]
        once = {name for name in names if names.count(name) == 1}
        if not once:
            return
        network = _Watched(graph, weights).eval()
        for inputs in samples:
            network.moments = {}
            with torch.no_grad():
                network(*inputs)
            self.moments.append({name: each for name, each in network.moments.items() if name in once})

    def weights_of(
        self, graph: Graph, weights: Mapping[str, Tensor], recipe: Recipe, crossings: Crossings
    ) -> dict[str, Tensor]:
        """The weights of a separated network with its own statistics: the means over all batches."""
        if not self.moments:
            return dict(weights)
        network = _Shifted(graph, weights, crossings).eval()
        network.recipe, network.found = recipe, defaultdict(list)
        for inputs, moments in zip(self.samples, self.moments, strict=True):
            network.original = moments
            with torch.no_grad():
                network(*inputs)
        means = {name: torch.stack(each).mean(0).to(weights[name].dtype) for name, each in network.found.items()}
        return {**weights, **means}
