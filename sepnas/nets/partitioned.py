"""A traced network that is cut by plans whose segments are graphs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sepnas.errors import PlanError
from sepnas.nets.graph import GraphNetwork, load_graph_network
from sepnas.nets.segment_graph import SegmentModule
from sepnas.plan.plan import Segment


class PartitionedNetwork(GraphNetwork):
    """A graph with its weights, of which plans take regions. ``forward`` is that of the whole network."""

    def tensor(self, name: str) -> Tensor:
        """A weight by its name; :class:`PlanError` if the network has none of this name."""
        try:
            found: Tensor = getattr(self, self._weights[name])
        except KeyError:
            raise PlanError(
                f"the plan takes the weight '{name}', which network '{self.graph.name}' does not have"
            ) from None
        return found

    def part(self, segment: Segment) -> SegmentModule:
        """A segment's graph with its weights; :class:`PlanError` for a weight that the network lacks there."""
        for weight in segment.weights:
            whole = tuple(self.tensor(weight.name).shape)
            ranges = weight.region.ranges
            if len(ranges) != len(whole) or any(
                not 0 <= a < b <= size for (a, b), size in zip(ranges, whole, strict=True)
            ):
                raise PlanError(
                    f"segment '{segment.name}' takes {ranges} of the weight '{weight.name}', which is {whole}"
                )
        return SegmentModule(segment, self.tensor).eval()

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module:
        raise PlanError(
            f"a segment of device {rank} has no graph, and network '{self.graph.name}' is cut by graphs only"
        )

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        return {}

    def scale(self, name: str) -> Tensor:
        raise PlanError(
            f"the plan sends with the learned scale '{name}', which network '{self.graph.name}' does not have"
        )


def load_partitioned(folder: Path) -> PartitionedNetwork:
    """The network of a folder that `sepnas import` wrote; :class:`SpecError` for files that are missing or damaged."""
    whole = load_graph_network(folder)
    with torch.no_grad():
        return PartitionedNetwork(whole.graph, whole.weights_by_name).eval()
