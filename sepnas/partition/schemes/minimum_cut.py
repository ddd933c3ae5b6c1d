"""Minimum cut (DADS): the operators fall into two places so that computing and sending together take least.

The first layer is on device 0 and the last one on device 1; nothing is sent back. Branches may be cut. The cut costs
``4 V`` bytes in fp32, where V are the values of the tensors that are made on device 0 and used on device 1, each sent
once. The MACs are those of the network. The time that is minimised is that of one request for devices whose speeds are
as their shares, one operator after the other: the minimum cut between two places in a network whose arcs are times.
"""

from __future__ import annotations

from sepnas.errors import PlanError
from sepnas.partition.estimates import MACS_PER_BYTE, multiplying_places
from sepnas.partition.graph import Graph
from sepnas.partition.max_flow import NEVER, Arcs, first_side
from sepnas.partition.parts import Layouts
from sepnas.partition.propagation import consumers_of
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.scheme import Scheme, Shares, dims_of, whole_on
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import FLOAT_BYTES

_FIRST, _SECOND = "\n0", "\n1"
"""The ends of the cut, devices 0 and 1. Names of a graph have one line."""


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    if len(shares) == 1:
        return whole_on(graph, 0)
    layers = multiplying_places(graph)
    if len(layers) < 2:
        raise PlanError(f"network '{graph.name}' has {len(layers)} layers, which cannot be cut for 2 devices")
    stays = first_side(arcs_of(graph, shares, layers[0], layers[-1]), _FIRST, _SECOND)
    if stays is None:
        raise PlanError(f"network '{graph.name}' cannot be cut for 2 devices: what crosses any cut cannot be sent")
    return {node.name: Layout.on(0 if node.name in stays else 1, dims_of(graph, node)) for node in graph.nodes}


def arcs_of(graph: Graph, shares: Shares, first: int, last: int) -> Arcs:
    """The arcs, each with the time that is paid if its start is on device 0 and its end is not."""
    consumers, scale = consumers_of(graph), len(shares) / sum(shares)
    arcs: Arcs = {(_FIRST, graph.nodes[first].name): NEVER, (graph.nodes[last].name, _SECOND): NEVER}
    for node in graph.nodes:
        macs = graph.macs_of(node)
        arcs.setdefault((_FIRST, node.name), macs / (shares[1] * scale))
        arcs.setdefault((node.name, _SECOND), macs / (shares[0] * scale))
        for name in node.outputs:
            tensor, sent = graph.tensors[name], f"{name}\n"
            values = whole(tensor.dims).num_values
            arcs[node.name, sent] = MACS_PER_BYTE * FLOAT_BYTES * values if tensor.can_be_sent else NEVER
            for reader in consumers.get(name, ()):
                arcs[sent, reader.name] = arcs[reader.name, node.name] = NEVER
    return arcs


SCHEME = Scheme(
    "minimum-cut", "two devices, cut where computing and sending take least; branches may be cut", 10, _layouts, 2
)
