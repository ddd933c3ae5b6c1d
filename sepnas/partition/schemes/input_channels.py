"""Input channels: each device multiplies its channels of a layer's input, and the partial sums are added.

Each of N devices keeps the channels of the sum that are its input of the next layer, so a layer costs
``4 (N - 1) V`` bytes in fp32, where V are the values of its output: a reduce-scatter. Nothing is gathered. The MACs are
those of the network. Grouped convolutions are split by groups, without partial sums; what needs all channels is
computed by device 0.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout, shares_of
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible
from sepnas.plan.shapes import Region


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    found = split_where_possible(graph, "C", shares)
    for node in graph.nodes:
        spans = spans_of(graph, node, shares)
        if len(spans) > 1:
            found[node.name] = Layout(found[node.name].pieces, spans)
    return found


def spans_of(graph: Graph, node: GraphNode, shares: Shares, multiple: int = 1) -> dict[int, Region]:
    """The terms of each device; empty if the operator has no partial sums."""
    ranges = enumerate(shares_of(terms_of(graph, node), shares, multiple))
    return {device: Region((each,)) for device, each in ranges if each[0] < each[1]}


def terms_of(graph: Graph, node: GraphNode) -> int:
    """The terms of each sum of a layer with a weight that may be shared out; 0 for other operators."""
    derived = graph.derived(node)
    if derived is None or len(node.outputs) > 1 or node.inputs.get("weight") not in graph.stored:
        return 0
    return derived.terms.count if derived.terms is not None else 0


SCHEME = Scheme("input-channels", "each device multiplies some input channels; partial sums are added", 6, _layouts)
