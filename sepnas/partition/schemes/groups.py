"""Groups: each device computes some groups of each grouped or depthwise convolution; other layers are on device 0.

What follows a grouped convolution channel by channel (norms, activations, pooling) stays with its groups. With even
shares of N devices, a grouped convolution between layers that are not grouped costs ``4 (N - 1) / N (V + V')`` bytes in
fp32: the V values of its input are scattered, and the V' values that reach the next layer are gathered. Grouped
convolutions in a row, such as those of a network that was made separable, cost nothing between them. The MACs are those
of the network.
"""

from __future__ import annotations

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.scheme import Scheme, Shares, dims_of, split_or_on
from sepnas.plan.kinds.kind import whole


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    if not any(map(is_grouped, graph.nodes)):
        raise PlanError(
            f"scheme groups splits convolutions of several groups, and network '{graph.name}' has none: there is "
            f"nothing for {len(shares)} devices"
        )
    found, split = dict[str, Layout](), set[str]()
    for node in graph.nodes:
        follows = is_grouped(node) or _keeps_channels(graph, node, split)
        layout = split_or_on(graph, node, "C", shares, 0) if follows else Layout.on(0, dims_of(graph, node))
        found[node.name] = layout
        if len(layout.devices) > 1:
            split.update(node.outputs)
    return found


def is_grouped(node: GraphNode) -> bool:
    """Whether a node is a convolution of several groups."""
    groups = node.attributes.get("groups", 1)
    return node.operator in ("conv", "conv_transpose") and isinstance(groups, int) and groups > 1


def _keeps_channels(graph: Graph, node: GraphNode, split: set[str]) -> bool:
    """Whether a node without products takes its largest operands from what is split."""
    sizes = {
        name: whole(graph.tensors[name].dims).num_values for name in node.inputs.values() if name not in graph.stored
    }
    largest = [name for name, size in sizes.items() if size == max(sizes.values())]
    return not graph.macs_of(node) and bool(largest) and all(name in split for name in largest)


SCHEME = Scheme("groups", "each device computes some groups of grouped and depthwise convolutions", 8, _layouts)
