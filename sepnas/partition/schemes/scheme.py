"""What a scheme is: a way to lay the tensors of a graph out over devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout, shares_of
from sepnas.plan.kinds.kind import Dims
from sepnas.plan.shapes import Range

Shares: TypeAlias = Sequence[float]
"""The share of the work of each device, in any unit."""


@dataclass(frozen=True)
class Scheme:
    """A way to split a network.

    Attributes:
        name: the name in options and reports.
        summary: one line for help texts and tables.
        order: its place in lists.
        layouts: the layout of each node for shares of the devices. What cannot be split is whole on one device.
    """

    name: str
    summary: str
    order: int
    layouts: Callable[[Graph, Shares], Layouts]


def dims_of(graph: Graph, node: GraphNode) -> Dims:
    """The sizes of a node's first output."""
    return graph.tensors[node.outputs[0]].dims


def cut_along(graph: Graph, node: GraphNode, letter: str, shares: Shares) -> tuple[int, tuple[Range, ...]] | None:
    """The axis of a node's output with this name and a range of it for each device; None if it cannot be cut there."""
    axes, dims = graph.tensors[node.outputs[0]].axes, dims_of(graph, node)
    if node.kind is None or len(node.outputs) > 1 or letter not in axes:
        return None
    axis = axes.index(letter)
    multiple = node.kind.cuts(graph.use(node)).get(axis)
    if multiple is None:
        return None
    ranges = shares_of(dims[axis], shares, multiple)
    return (axis, ranges) if sum(start < stop for start, stop in ranges) > 1 else None


def split_where_possible(graph: Graph, letter: str, shares: Shares) -> dict[str, Layout]:
    """Each node split along the axis of this name, or whole on device 0."""
    found = {}
    for node in graph.nodes:
        cut = cut_along(graph, node, letter, shares)
        dims = dims_of(graph, node)
        found[node.name] = Layout.on(0, dims) if cut is None else Layout.split(dims, cut[0], cut[1])
    return found


def kept_whole(graph: Graph, layouts: Mapping[str, Layout]) -> tuple[GraphNode, ...]:
    """The nodes that one device computes alone."""
    return tuple(node for node in graph.nodes if len(layouts[node.name].devices) == 1)
