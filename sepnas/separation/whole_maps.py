"""Wide layers that read a flattened feature map, as convolutions over the whole map.

A fully connected layer behind ``flatten`` reads each position of each channel as a channel of its own: 25,088 of them
in VGG, whose covariance takes gigabytes and says more than some hundred images can. As a convolution whose kernel is as
large as the map, it computes the same and reads 512 channels, whose statistics are of all positions.

A message to such a convolution holds maps. To a layer as it is, it may hold one sum for each of its outputs on a
device, which costs less if these are fewer than positions: then the layer stays, unless it is far too wide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from math import prod

from sepnas.partition.graph import Graph, GraphNode, GraphTensor
from sepnas.separation.atoms import EVERYWHERE
from sepnas.separation.channels import Channels
from sepnas.separation.follow import channels_of

MAX_FLATTENED, MAX_SUMMED = 4096, 10_000
"""The most channels of a flattened map that a layer reads as they are; and if sums of them are better messages.

The covariance of so many takes 0.13 and 0.8 GB, and several matrices of its size are needed at a time.
"""
_CHANNELS = 1
"""The axis of a map's channels ``(N, C, ...)``."""
_MOST_AXES = 5


def reading_whole_maps(graph: Graph, devices: int) -> Graph:
    """The graph with convolutions in place of such layers, to be separated over some devices; itself if there are none.

    Weights keep their names, and get the shape of kernels.
    """
    maps = _flattened_maps(graph, devices)
    if not maps:
        return graph
    tensors, nodes = dict(graph.tensors), list[GraphNode]()
    for node in graph.nodes:
        found = maps.get(node.inputs.get("input", "")) if node.operator == "linear" else None
        if found is None:
            nodes.append(node)
            continue
        map_, weight, output = tensors[found], tensors[node.inputs["weight"]], node.outputs[0]
        inner, name = map_.dims[_CHANNELS + 1 :], _free(f"{output}.map", tensors)
        tensors[node.inputs["weight"]] = weight.model_copy(
            update={
                "axes": "OI" + "THW"[3 - len(inner) :], "dims": (weight.dims[0], map_.dims[_CHANNELS], *inner),
            }
        )  # fmt: skip
        dims = 1, weight.dims[0], *(1 for _ in inner)
        tensors[name] = GraphTensor(axes=map_.axes, dims=dims, dtype=tensors[output].dtype)
        nodes += [
            node.model_copy(update={"operator": "conv", "inputs": {**node.inputs, "input": found}, "outputs": (name,)}),
            GraphNode(
                name=_free(f"{node.name}.flat", {each.name for each in graph.nodes}), operator="reshape",
                inputs={"self": name}, outputs=(output,), attributes={"size": tensors[output].dims},
                module=node.module,
            ),
        ]  # fmt: skip
    kept = [node for node in nodes if node.outputs[0] not in maps]
    left = {name: each for name, each in tensors.items() if name not in maps}
    return graph.model_copy(update={"nodes": tuple(kept), "tensors": left})


def _flattened_maps(graph: Graph, devices: int) -> dict[str, str]:
    """The map ``(1, C, ...)`` of each flattened one that only wide layers read."""
    uses, readers = Counter[str](output.tensor for output in graph.outputs), defaultdict[str, list[GraphNode]](list)
    for node in graph.nodes:
        uses.update(node.inputs.values())
        readers[node.inputs.get("input", "")].append(node)
    found = {}
    for node in graph.nodes:
        if node.operator == "reshape" and _is_flattening(graph, node):
            flat, layers = node.outputs[0], readers[node.outputs[0]]
            alone = 0 < len(layers) == uses[flat]
            if alone and all(_is_wide(graph, layer, node, uses, devices) for layer in layers):
                found[flat] = node.inputs["self"]
    return _with_channels(graph, found) if found else {}


def _is_flattening(graph: Graph, node: GraphNode) -> bool:
    map_, flat = graph.tensors[node.inputs["self"]].dims, graph.tensors[node.outputs[0]].dims
    return _CHANNELS + 1 < len(map_) <= _MOST_AXES and len(flat) == _CHANNELS + 1 and map_[0] == flat[0] == 1


def _is_wide(graph: Graph, layer: GraphNode, flattening: GraphNode, uses: Counter[str], devices: int) -> bool:
    weight = layer.inputs.get("weight", "")
    if layer.operator != "linear" or weight not in graph.stored or uses[weight] > 1:
        return False
    outputs, width = graph.tensors[weight].dims
    positions = prod(graph.tensors[flattening.inputs["self"]].dims[_CHANNELS + 1 :])
    sums_cost_less = outputs <= devices * positions
    return positions > 1 and width > (MAX_SUMMED if sums_cost_less else MAX_FLATTENED)


def _with_channels(graph: Graph, maps: Mapping[str, str]) -> dict[str, str]:
    """Those whose channels lie along the second axis, or that each device has."""
    tensors = channels_of(graph).tensors
    return {
        flat: name
        for flat, name in maps.items()
        if isinstance(each := tensors[name], Channels)
        and (each.axis == _CHANNELS or (each.axis is None and int(each.labels[0]) == EVERYWHERE))
    }


def _free(name: str, taken: Mapping[str, object] | set[str]) -> str:
    while name in taken:
        name += "_"
    return name
