"""Pipeline: a stage of consecutive operators on each device; branches may cross the cuts.

A cut costs the bytes of the tensors that are made before it and used after it, each sent once to each device that uses
it: for a chain ``4 V`` bytes in fp32 with V values at the cut. The MACs are those of the network. The cuts make the
slowest stage fast, whether it computes or waits for its input: one answer takes as long as on one device, but each
device works on another request.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.schemes.scheme import Scheme, Shares
from sepnas.partition.stages import best_cuts, stages


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return stages(graph, best_cuts(graph, shares, slowest=True))


SCHEME = Scheme("pipeline", "a stage of consecutive layers on each device", 4, _layouts)
