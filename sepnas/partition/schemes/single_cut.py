"""Single cut (Neurosurgeon): the network is cut once, and two devices compute the two sides.

The cut costs ``4 V`` bytes in fp32, where V are the values of the tensors that cross it. The MACs are those of the
network. The cut is that of the lowest latency for devices whose speeds are as their shares.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.schemes.scheme import Scheme, Shares
from sepnas.partition.stages import best_cuts, stages


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return stages(graph, best_cuts(graph, shares, slowest=False))


SCHEME = Scheme("single-cut", "one cut between layers, two devices", 5, _layouts, 2)
