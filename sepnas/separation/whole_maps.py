"""Wide layers that read a flattened feature map, as convolutions over the whole map.

A fully connected layer behind ``flatten`` reads each position of each channel as a channel of its own: 25,088 of them
in VGG, whose covariance takes gigabytes and says more than some hundred images can. As a convolution whose kernel is as
large as the map, it computes the same and reads 512 channels, whose statistics are of all positions. Layers that read
fewer stay as they are: their messages may be sums for a few outputs, which cost less than maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sepnas.partition.graph import Graph, GraphNode, GraphTensor

MAX_FLATTENED = 4096
"""The most channels of a flattened map that a layer reads as they are: to separate it takes up to a gigabyte."""
_CHANNELS = 1
"""The axis of a map's channels ``(N, C, ...)``."""


def reading_whole_maps(graph: Graph) -> Graph:
    """The graph with convolutions in place of such layers; itself if there are none.

    Weights keep their names, and get the shape of kernels.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs.values())
    tensors, nodes, changed = dict(graph.tensors), list[GraphNode](), False
    for node in graph.nodes:
        found = _flattened(graph, node, uses)
        if found is None:
            nodes.append(node)
            continue
        changed = True
        map_, weight, output = tensors[found], tensors[node.inputs["weight"]], node.outputs[0]
        inner, name = map_.dims[_CHANNELS + 1 :], _free(f"{output}.map", tensors)
        positions = map_.axes[_CHANNELS + 1 :]
        tensors[node.inputs["weight"]] = weight.model_copy(
            update={"axes": f"OI{positions}", "dims": (weight.dims[0], map_.dims[_CHANNELS], *inner)}
        )
        tensors[name] = GraphTensor(axes=map_.axes, dims=(1, weight.dims[0], *(1 for _ in inner)))
        nodes += [
            node.model_copy(update={"operator": "conv", "inputs": {**node.inputs, "input": found}, "outputs": (name,)}),
            GraphNode(
                name=_free(f"{node.name}.flat", {each.name for each in graph.nodes}), operator="reshape",
                inputs={"self": name}, outputs=(output,), attributes={"size": tensors[output].dims},
                module=node.module,
            ),
        ]  # fmt: skip
    return _without_unread(graph.model_copy(update={"nodes": tuple(nodes), "tensors": tensors})) if changed else graph


def _flattened(graph: Graph, node: GraphNode, uses: Counter[str]) -> str | None:
    """The map ``(1, C, ...)`` that a wide layer reads flattened; None for other nodes."""
    if node.operator != "linear" or node.inputs["weight"] not in graph.stored or uses[node.inputs["weight"]] > 1:
        return None
    maker = graph.makers.get(node.inputs["input"])
    if maker is None or maker.operator != "reshape":
        return None
    map_, flat = graph.tensors[maker.inputs["self"]], graph.tensors[node.inputs["input"]]
    is_map = map_.axes in ("NCW", "NCHW", "NCTHW") and map_.dims[0] == 1 and map_.dims[_CHANNELS] > 1
    return maker.inputs["self"] if is_map and len(flat.dims) == 2 and flat.dims[1] > MAX_FLATTENED else None


def _free(name: str, taken: Mapping[str, object] | set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _without_unread(graph: Graph) -> Graph:
    """Without the nodes whose outputs nothing reads, and their tensors."""
    read = {output.tensor for output in graph.outputs}
    kept = list[GraphNode]()
    for node in reversed(graph.nodes):
        if not read.isdisjoint(node.outputs):
            read.update(node.inputs.values())
            kept.append(node)
    gone = {name for node in graph.nodes for name in node.outputs} - {name for node in kept for name in node.outputs}
    tensors = {name: each for name, each in graph.tensors.items() if name not in gone}
    return graph.model_copy(update={"nodes": tuple(reversed(kept)), "tensors": tensors})
