"""Output channels: each device computes some channels of each layer, and gathers the others' before the next.

With N devices, a layer whose input is gathered costs ``4 (N - 1) V`` bytes in fp32, where V are the values of its
input: each value is sent to all devices but its own. Depthwise convolutions, norms, activations, pooling and additions
take the channels that their device has, and cost nothing. The MACs are those of the network, each computed once.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return split_where_possible(graph, "C", shares)


SCHEME = Scheme(
    "output-channels", "each device computes some channels of each layer; an all-gather before the next", 0, _layouts
)
