"""Fused tiles in two dimensions (DeepThings): runs of layers on tiles of rows and columns; rims are computed twice.

The devices stand as those of the grid (:mod:`sepnas.partition.schemes.grid`), with R rows of C devices. For a run of L
layers of stride 1 with kernel 2 p + 1 and padding p on maps of H x W, layer l (the last is L) is computed on ``(H + 2 p
(R - 1) (L - l)) (W + 2 p (C - 1) (L - l))`` places instead of ``H W``, as long as tiles stay within the map. No map is
sent within a run, and a mean over all places costs what it costs by rows; the borders of the runs are those of the
lowest estimated time (:mod:`sepnas.partition.runs`).
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.runs import runs_by_cost
from sepnas.partition.schemes.grid import tiles
from sepnas.partition.schemes.scheme import Scheme, Shares


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    return runs_by_cost(graph, tiles(graph, shares), shares)


SCHEME = Scheme("fused-grid", "tiles of rows and columns through runs of layers; rims are computed twice", 9, _layouts)
