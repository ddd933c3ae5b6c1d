"""Fused tiles (DeepThings, AOFL): runs of layers on tiles of rows, whose halo is computed twice instead of exchanged.

Within a run no map is sent; at its start each device is sent the rows that its tile lacks. For a run of L layers of
stride 1 with kernel k = 2 p + 1 and padding p, layer l (the last is L) is computed on 2 p (L - l) more rows for each of
the N - 1 borders, so its MACs are those of the network times ``(H + 2 p (N - 1) (L - l)) / H``, as long as tiles stay
within the map. The first layer's halo costs ``8 W C p L`` bytes a border in fp32. A mean over all places costs what it
costs by rows, also within a run: rows that two devices compute count once. The borders of the runs are those of the
lowest estimated time (:mod:`sepnas.partition.runs`).
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.runs import runs_by_cost
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return runs_by_cost(graph, split_where_possible(graph, "H", shares), shares)


SCHEME = Scheme("fused-tiles", "tiles of rows through runs of layers; halos are computed twice", 3, _layouts)
