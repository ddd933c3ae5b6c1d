"""A separation as masks on the weights of the original network: ones where an input channel reaches an output's device.

A network whose mixing weights are multiplied by the masks computes what the separated network computes with fp32
messages. Training and search use it, because it has the original's shapes whatever crosses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph
from sepnas.separation.channels import ChannelMap
from sepnas.separation.document import Separation
from sepnas.separation.follow import channels_of
from sepnas.separation.relations import MixingLayer
from sepnas.separation.spaces import Placement

Mask = npt.NDArray[np.float32]


def masks_of(graph: Graph, separation: Separation, channels: ChannelMap | None = None) -> dict[str, Mask]:
    """The mask of each weight that mixes channels, by the weight's name; its sizes broadcast to the weight's.

    Raises :class:`SpecError` if the separation is another network's, or layers that share a weight have different
    masks.
    """
    found = channels or channels_of(graph)
    placement = separation.placement(found)
    arriving = {(each.tensor, each.destination): list[int]() for each in separation.crossings}
    for each in separation.crossings:
        arriving[each.tensor, each.destination].extend(each.channels)
    masks: dict[str, Mask] = {}
    for layer in found.mixing.values():
        if layer.weight_axis is None:
            continue
        name = layer.node.inputs[layer.weight]
        mask = _mask(graph, layer, placement, arriving)
        if name in masks and not np.array_equal(masks[name], mask):
            raise SpecError(
                f"weight '{name}' of network '{graph.name}' is shared by layers that are separated in different ways, "
                f"of which '{layer.node.name}' is one: it has no single mask"
            )
        masks[name] = mask
    return masks


def _mask(graph: Graph, layer: MixingLayer, placement: Placement, arriving: dict[tuple[str, int], list[int]]) -> Mask:
    dims, out_axis = graph.tensors[layer.node.inputs[layer.weight]].dims, layer.relation.operands[layer.weight].axis
    assert layer.weight_axis is not None
    found = np.zeros((dims[out_axis], dims[layer.weight_axis]), dtype=np.float32)
    for device in placement.computing(layer.output):
        inputs = placement.own(layer.operand, device).tolist() + arriving.get((layer.operand, device), [])
        found[np.ix_(placement.own(layer.output, device), inputs)] = 1
    mask = found if out_axis < layer.weight_axis else found.T
    return mask.reshape([size if axis in (out_axis, layer.weight_axis) else 1 for axis, size in enumerate(dims)])
