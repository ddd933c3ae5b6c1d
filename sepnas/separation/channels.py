"""The channels of all tensors of a graph, and which of them must lie on one device.

Each operator is followed by what its kind says of regions (:mod:`sepnas.separation.relations`): those that treat each
channel for itself (activations, norms, pooling, depthwise convolutions, residual additions) tie the channels of their
operands together; layers that mix channels begin new ones. What mixes channels in another way (a softmax or a norm over
channels, attention) is computed whole by the read-out device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import numpy as np

from sepnas.partition.graph import Graph
from sepnas.separation.atoms import READ_OUT, Labels
from sepnas.separation.relations import MixingLayer, Relation


class HowComputed(Enum):
    """How a node is computed by several devices."""

    EVERYWHERE = auto()
    """By each device, from what each has."""
    OWNER = auto()
    """By the one device that has all operands."""
    MIXING = auto()
    """By each device for its output channels, from its own input channels and those that it is sent."""
    CHANNELS = auto()
    """By each device for its channels."""
    JOINED = auto()
    """A concatenation of channels: by each device for its own of all operands."""
    SLICED = auto()
    """A slice along the channels: by each device for its own among them."""
    VIEW = auto()
    """Channels in another order: nothing is computed."""
    FOLDED = auto()
    """A step within a reordering of channels, during which they lie along several axes: nothing is computed."""
    READ_OUT = auto()
    """Whole by the read-out device."""


@dataclass(frozen=True)
class Channels:
    """The channels of a tensor along ``axis``, and the atom of each. Without an axis, ``labels`` has one for all."""

    axis: int | None
    labels: Labels


@dataclass(frozen=True, eq=False)
class Folded:
    """A tensor whose channels lie along several axes: ``ids`` are those of tensor ``base``, of which it is a view."""

    base: str
    ids: np.ndarray


@dataclass(frozen=True)
class ChannelMap:
    """What is known of a graph's channels.

    ``ways`` says of each node how it is computed, by name; ``relations`` and ``views`` have what ``CHANNELS`` and
    ``VIEW`` need besides: for a view, the channel of ``views[node][0]`` that each of its channels is. ``shared`` are
    operands, by node and role, of which each device needs all channels. ``num_atoms`` bounds all labels.
    """

    graph: Graph
    tensors: Mapping[str, Channels | Folded]
    ways: Mapping[str, HowComputed]
    mixing: Mapping[str, MixingLayer]
    relations: Mapping[str, Relation]
    views: Mapping[str, tuple[str, Labels]]
    shared: tuple[tuple[str, str], ...]
    num_atoms: int

    def axis(self, tensor: str) -> int:
        """The axis of a tensor's channels; for one without, that of its terms or the axis after the samples."""
        found = self.tensors[tensor]
        if isinstance(found, Channels) and found.axis is not None:
            return found.axis
        summed = [layer.in_axis for layer in self.readers.get(tensor, ())]
        return summed[0] if summed else min(1, len(self.graph.tensors[tensor].dims) - 1)

    def labels(self, tensor: str) -> Labels:
        """The atom of each channel along :meth:`axis`."""
        found = self.tensors[tensor]
        if isinstance(found, Folded):
            return self.labels(found.base)
        size = self.graph.tensors[tensor].dims[self.axis(tensor)] if self.graph.tensors[tensor].dims else 1
        return found.labels if found.axis is not None else np.repeat(found.labels, size)

    @cached_property
    def readers(self) -> Mapping[str, tuple[MixingLayer, ...]]:
        """The layers that mix the channels of each tensor."""
        found: dict[str, tuple[MixingLayer, ...]] = {}
        for layer in self.mixing.values():
            found[layer.operand] = (*found.get(layer.operand, ()), layer)
        return found

    def padding_share(self, tensor: str) -> float:
        """The share (0..1) of padding in what a layer reads of a tensor; the largest of all layers that mix it."""
        found = (self.graph.derived(layer.node) for layer in self.readers.get(tensor, ()))
        return max((each.kind.padding_share(each.use) for each in found if each), default=0.0)

    def may_be_centred(self, tensor: str) -> bool:
        """Whether a constant may be added to what layers read of a tensor, and its effect taken from their biases."""
        return self.padding_share(tensor) == 0

    def is_read_out(self, tensor: str) -> bool:
        """Whether all of a tensor lies on the read-out device."""
        return bool((self.labels(tensor) == READ_OUT).all())
