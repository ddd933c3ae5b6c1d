"""Small networks of each kind in which channels are tied together in another way, and their separations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from sepnas.nets.channel_statistics import measure_statistics
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.nets.separated import arrays_of, separated_weights
from sepnas.partition.graph import Graph
from sepnas.plan.schedule import schedule
from sepnas.separation.channels import ChannelMap
from sepnas.separation.demands import exact_bytes
from sepnas.separation.document import Separation
from sepnas.separation.follow import channels_of
from sepnas.separation.grouping import group, placed
from sepnas.separation.importance import Weights, importance_of
from sepnas.separation.network import SeparatedGraph, separated_graph
from sepnas.separation.pieces import Message
from sepnas.separation.separate import separation_of
from sepnas.separation.spaces import Placement, groupable
from sepnas.separation.statistics import Array, Statistics
from sepnas.separation.thinning import Limits, formats_of
from sepnas.separation.tiled_layers import tiled_layers_until
from sepnas.testing.graphs import Builder, residual

SIDE = 12


def chain() -> Builder:
    """Three convolutions with batch norms and ReLUs, pooled, flattened to a classifier of two layers."""
    made = Builder(3, SIDE, SIDE)
    for channels in (8, 12, 10):
        made.conv(channels, 3, padding=(1, 1), bias=False)
        made.norm()
        made.then("relu")
    made.then("max_pool2d", kernel_size=(3, 3), stride=(3, 3))
    made.then("reshape", size=(1, 160))
    made.linear(16)
    made.then("relu")
    made.linear(5)
    return made


def padded() -> Builder:
    """A convolution whose padding is an operator of its own, as converters from TensorFlow write it."""
    made = Builder(3, SIDE, SIDE)
    made.then("pad", pad=(0, 1, 0, 1), value=0.0)
    made.conv(8, 3, stride=(2, 2))
    made.conv(8, 3, padding=(1, 1))
    made.head(5)
    return made


def separable() -> Builder:
    """Depthwise and pointwise layers, the second depthwise one with two outputs for each channel."""
    made = Builder(3, SIDE, SIDE)
    made.conv(8, 3, padding=(1, 1), stride=(2, 2))
    for multiplier in (1, 2):
        channels = made.dims()[1]
        made.conv(channels * multiplier, 3, groups=channels, padding=(1, 1))
        made.then("hardswish")
        made.conv(12, 1)
        made.norm()
    made.head(7)
    return made


def grouped() -> Builder:
    """A residual block with a convolution of four groups, and a norm of four groups."""
    made = Builder(3, SIDE, SIDE)
    before = made.conv(12, 3, padding=(1, 1))
    made.conv(8, 1)
    made.conv(16, 3, groups=4, padding=(1, 1))
    made.add("group_norm", {"input": made.last, "weight": made.weight(16), "bias": made.weight(16)}, num_groups=4)
    made.conv(12, 1)
    made.plus(before)
    made.head(5)
    return made


def dense() -> Builder:
    """Layers that read the outputs of all before, joined."""
    made = Builder(3, SIDE, SIDE)
    features = made.conv(6, 3, padding=(1, 1))
    for _ in range(3):
        made.then("relu")
        new = made.conv(5, 3, padding=(1, 1))
        features = made.add("cat", {"tensors.0": features, "tensors.1": new}, dim=1)
    made.head(5)
    return made


def squeezed() -> Builder:
    """Squeeze and excite; its inner layer has too few channels for five devices."""
    made = Builder(3, SIDE, SIDE)
    for _ in range(2):
        made.conv(10, 3, padding=(1, 1))
        made.gate(4)
    made.head(5)
    return made


def shuffled() -> Builder:
    """One half of the channels passes by a block; then the channels of both halves are shuffled."""
    made = Builder(3, SIDE, SIDE)
    made.conv(12, 3, padding=(1, 1))
    for _ in range(2):
        before = made.last
        left = made.add("slice", {"self": before}, dim=1, start=0, end=6, step=1)
        made.add("slice", {"self": before}, dim=1, start=6, end=12, step=1)
        right = made.conv(6, 3, padding=(1, 1))
        made.add("cat", {"tensors.0": left, "tensors.1": right}, dim=1)
        made.then("reshape", size=(1, 2, 6, SIDE, SIDE))
        made.then("permute", dims=(0, 2, 1, 3, 4))
        made.then("reshape", size=(1, 12, SIDE, SIDE))
    made.head(5)
    return made


def attentive() -> Builder:
    """A softmax over channels, which the read-out device computes whole, and layers before and after it."""
    made = Builder(3, SIDE, SIDE)
    made.conv(8, 3, padding=(1, 1))
    made.then("softmax", dim=1)
    made.conv(8, 3, padding=(1, 1))
    made.then("mean", dim=(2, 3), keepdim=False)
    made.linear(5)
    return made


def segmented() -> Builder:
    """A map of classes as the answer, scaled up, with a mask of one channel on the way."""
    made = Builder(3, SIDE, SIDE)
    made.conv(8, 3, padding=(1, 1), stride=(2, 2))
    before = made.last
    made.then("mean", dim=(1,), keepdim=True)
    made.then("sigmoid")
    made.add("mul", {"self": before, "other": made.last})
    made.conv(6, 1)
    made.then("upsample_bilinear2d", role="input", output_size=(SIDE, SIDE), align_corners=False)
    return made


MAKERS: Mapping[str, Callable[[], Builder]] = {
    make.__name__: make
    for make in (chain, residual, padded, separable, grouped, dense, squeezed, shuffled, attentive, segmented)
}


@dataclass(frozen=True)
class Small:
    """A small network with what separating it needs."""

    graph: Graph
    weights: Mapping[str, Tensor]

    @cached_property
    def channels(self) -> ChannelMap:
        return channels_of(self.graph)

    @cached_property
    def arrays(self) -> Weights:
        return arrays_of(self.weights)

    @cached_property
    def importance(self) -> Mapping[str, Array]:
        return importance_of(self.channels, self.arrays)

    @cached_property
    def x(self) -> Tensor:
        return self.images(1, seed=1)

    @cached_property
    def measured(self) -> Statistics:
        """Statistics of three images: fewer than most tensors have channels."""
        return measure_statistics(self.channels, self.weights, [(self.images(3, seed=2),)])

    def images(self, count: int, seed: int = 0) -> Tensor:
        dims = self.graph.tensors[self.graph.inputs[0]].dims[1:]
        return torch.randn(count, *dims, generator=torch.Generator().manual_seed(seed))

    def placement(self, shares: Sequence[float], tensor: str | None = None) -> Placement:
        """The placement of all channels; those of the layers up to ``tensor`` are in tiles."""
        tiles = None if tensor is None else tiled_layers_until(self.channels, tensor, shares)
        grouping = group(self.channels, groupable(self.channels, len(shares), tiles), self.importance, shares)
        return placed(self.channels, grouping, len(shares), tiles=tiles)

    def separated(
        self,
        shares: Sequence[float],
        share: float | None = None,
        wire: str = "fp32",
        statistics: Statistics | None = None,
        exchange_points: int | None = None,
        tiles: str | None = None,
    ) -> Separated:
        """The separation for a share of the exact split's bytes; all that matters by default."""
        placement = self.placement(shares, tiles)
        budget = None if share is None else int(share * exact_bytes(placement))
        limits = Limits(budget, exchange_points, formats_of(wire, 1 if share is None else share))
        found, thinned = separation_of(placement, self.arrays, statistics, limits)
        return Separated(self, placement, found, thinned.mixtures, statistics or Statistics())

    def answers(self, graph: Graph | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        with torch.no_grad():
            found = GraphNetwork(graph or self.graph, weights or self.weights).eval()(self.x)
        assert isinstance(found, Tensor)
        return found


@dataclass(frozen=True)
class Separated:
    """A separation of a small network, with its mixtures and the statistics that these are of."""

    of: Small
    placement: Placement
    separation: Separation
    mixtures: Mapping[Message, Array]
    statistics: Statistics

    @property
    def payload_bytes(self) -> int:
        return self.separation.payload_bytes(self.placement)

    @cached_property
    def made(self) -> SeparatedGraph:
        return separated_graph(self.of.graph, self.separation, self.mixtures, self.statistics, self.of.channels)

    @cached_property
    def network(self) -> PartitionedNetwork:
        return PartitionedNetwork(self.made.graph, separated_weights(self.made.recipe, self.of.weights)).eval()

    def answers(self) -> Tensor:
        """The answer of the graph in one process."""
        return self.of.answers(self.made.graph, self.network.weights_by_name)

    def planned(self, x: Tensor | None = None) -> Tensor:
        """The answers of the plan of its devices, in one process."""
        given = {self.of.graph.inputs[0]: self.of.x if x is None else x}
        with torch.no_grad():
            [answer] = run_plan(schedule(self.made.plan()), lookup_of(self.network), given).values()
        return answer


@cache
def small(name: str) -> Small:
    torch.manual_seed(0)
    made = MAKERS[name]()
    return Small(made.graph(), made.weights)


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest error relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def atoms(labels: np.ndarray) -> int:
    return len(set(labels.tolist()))
