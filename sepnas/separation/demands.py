"""What each device needs of each tensor beyond its own channels, if nothing were left out: the exact split.

A demand is *open* if only layers that mix channels ask for it: mixtures of the channels do instead of them
(:mod:`sepnas.separation.mixtures`), or nothing. It is *fixed* if all channels are needed: by the read-out device, for
answers and for what it computes whole; by all devices, for layers with too few channels to be grouped, and for operands
that no channel can do without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sepnas.plan.shapes import FLOAT_BYTES
from sepnas.separation.atoms import EVERYWHERE, Labels
from sepnas.separation.channels import Folded, HowComputed
from sepnas.separation.relations import MixingLayer
from sepnas.separation.spaces import Placement

_Key: TypeAlias = tuple[str, int]
_LEAST_OF_CONVOLUTIONS = 3
"""Axes of a convolution's input: samples, channels, one of positions."""


@dataclass(frozen=True)
class Demand:
    """A device's need of a tensor's channels. ``layers`` mix them on this device; none if the demand is fixed."""

    tensor: str
    device: int
    layers: tuple[MixingLayer, ...] = ()

    @property
    def is_fixed(self) -> bool:
        return not self.layers


def demands_of(placement: Placement) -> tuple[Demand, ...]:
    """All demands of a placement for channels of other devices, in the order of the graph."""
    fixed, layers = dict[tuple[str, int], None](), dict[tuple[str, int], tuple[MixingLayer, ...]]()
    for key, layer in _needs(placement):
        if layer is None:
            fixed[key] = None
        else:
            layers[key] = (*layers.get(key, ()), layer)
    for key, found in layers.items():
        axis = placement.channels.axis(key[0])
        several = {layer.in_axis for layer in found} != {axis}
        if several or not may_be_mixed(len(placement.channels.graph.tensors[key[0]].dims), axis):
            fixed[key] = None
    order = {name: place for place, name in enumerate(placement.channels.tensors)}
    keys = sorted({*fixed, *layers}, key=lambda key: (order[key[0]], key[1]))
    found_all = (Demand(*key, () if key in fixed else layers[key]) for key in keys)
    return tuple(each for each in found_all if len(crossing(placement, each)))


def crossing(placement: Placement, demand: Demand) -> Labels:
    """The channels of a demand that only other devices have."""
    devices = placement.of_tensor(demand.tensor)
    return np.flatnonzero((devices != demand.device) & (devices != EVERYWHERE))


def may_be_mixed(rank: int, axis: int) -> bool:
    """Whether a layer can mix channels along this axis: a fully connected one along the last, a 1x1 convolution."""
    return axis == rank - 1 or (axis == 1 and rank >= _LEAST_OF_CONVOLUTIONS)


def exact_bytes(placement: Placement) -> int:
    """Bytes of all demands in fp32: those of the exact split."""
    values = placement.channel_values
    return FLOAT_BYTES * sum(len(crossing(placement, each)) * values[each.tensor] for each in demands_of(placement))


def _needs(placement: Placement) -> Iterator[tuple[_Key, MixingLayer | None]]:
    """Each need of a tensor on a device, with the layer that mixes its channels; None if it is needed whole."""
    channels, read_out = placement.channels, placement.read_out
    graph, nodes = channels.graph, {node.name: node for node in channels.graph.nodes}
    for node in graph.nodes:
        way, computing = channels.ways[node.name], placement.computing(node.outputs[0])
        if way is HowComputed.READ_OUT:
            for name in node.inputs.values():
                if name not in graph.stored:
                    yield (_base(placement, name), read_out), None
        elif way is HowComputed.MIXING:
            layer = channels.mixing[node.name]
            open_ = EVERYWHERE not in placement.of_tensor(layer.output) and not channels.is_read_out(layer.output)
            for device in computing:
                yield (layer.operand, device), layer if open_ else None
    for name, role in channels.shared:
        tensor = nodes[name].inputs[role]
        for device in placement.computing(nodes[name].outputs[0]):
            yield (_base(placement, tensor), device), None
    for output in graph.outputs:
        yield (_base(placement, output.tensor), read_out), None


def _base(placement: Placement, tensor: str) -> str:
    """The tensor whose channels are sent in place of one that is in the middle of a reordering."""
    found = placement.channels.tensors[tensor]
    return found.base if isinstance(found, Folded) else tensor
