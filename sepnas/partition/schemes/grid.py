"""Rows and columns: each device computes a tile of each feature map, and exchanges the rim of its tile.

The devices stand in about as many rows as columns; rows may have different numbers of devices. With R rows of C
devices, a convolution of stride 1 with kernel 2 p + 1 and padding p on K maps of H x W costs
``4 K ((H + 2 p (R - 1)) (W + 2 p (C - 1)) - H W)`` bytes in fp32: all tiles with their rims, less the tiles. A mean
over all places costs what it costs by rows. The MACs are those of the network, but for the small layers on such means.
What can be cut along rows alone is split as by rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

from sepnas.partition.graph import Graph
from sepnas.partition.partial import with_partial_results
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout, along, shares_of
from sepnas.partition.schemes.scheme import Scheme, Shares, cut_along, cut_where_possible, dims_of
from sepnas.plan.kinds.kind import Dims, whole
from sepnas.plan.shapes import Region

Piece: TypeAlias = tuple[int, Region]


def rows_of_devices(num_devices: int) -> tuple[range, ...]:
    """The ranks in each row of tiles: as near to a square as can be."""
    count = round(num_devices**0.5)
    borders = [place * num_devices // count for place in range(count + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(borders))


def tiles(graph: Graph, shares: Shares) -> Layouts:
    """A tile of each node's output for each device."""
    found = cut_where_possible(graph, "H", shares)
    rows = rows_of_devices(len(shares))
    totals = [sum(shares[rank] for rank in row) for row in rows]
    for node in graph.nodes:
        down = cut_along(graph, node, "H", totals) if len(rows) > 1 else None
        across = cut_along(graph, node, "W", shares)
        if down is None or across is None:
            continue
        axes, cuts = (down[0], across[0]), graph.cuts_of(node)
        pieces = tile(dims_of(graph, node), axes, shares, (cuts[axes[0]], cuts[axes[1]]))
        found[node.name] = Layout(tuple(pieces))
    return with_partial_results(graph, found)


def tile(dims: Dims, axes: tuple[int, int], shares: Shares, multiples: tuple[int, int]) -> Iterator[Piece]:
    """A tile for each device, of the axes of rows and columns, with borders at multiples; none where it is empty."""
    rows = rows_of_devices(len(shares))
    spans = shares_of(dims[axes[0]], [sum(shares[rank] for rank in row) for row in rows], multiples[0])
    for row, span in zip(rows, spans, strict=True):
        columns = shares_of(dims[axes[1]], [shares[rank] for rank in row], multiples[1])
        for rank, column in zip(row, columns, strict=True):
            if span[0] < span[1] and column[0] < column[1]:
                yield rank, along(along(whole(dims), axes[0], span), axes[1], column)


SCHEME = Scheme(
    "grid", "each device computes a tile, rows and columns, of each map; neighbours exchange rims", 2, tiles
)
