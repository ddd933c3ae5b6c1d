"""Rows: each device computes some rows of each feature map, and the devices exchange the rows beside their borders.

A border between two devices costs a convolution of kernel k, stride s and padding p at most ``4 W C (k - s)`` bytes in
fp32 in both directions together, where W and C are the width and the channels of its input: exactly that where s
divides both borders and p = (k - s) / 2. With stride 1 that is ``8 W C p`` for each of N - 1 borders. Operators on
single positions cost nothing. A mean over all places of C channels costs ``4 (N - 1) C`` bytes for each device that
needs it: ``4 N (N - 1) C`` for squeeze and excite, ``4 (N - 1) C`` before a classifier. The MACs are those of the
network, but for the small layers on such means, which each device repeats (:mod:`sepnas.partition.partial`). What else
needs all rows is computed by device 0.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return split_where_possible(graph, "H", shares)


SCHEME = Scheme("rows", "each device computes some rows of each map; neighbours exchange a halo", 1, _layouts)
