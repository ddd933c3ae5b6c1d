"""What a scheme is: a way to lay the tensors of a graph out over devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.partial import with_partial_results
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
        choose: the layout of each node for shares of the devices. What cannot be split is whole on one device.
        max_devices: the largest number of devices; None if there is none.
    """

    name: str
    summary: str
    order: int
    choose: Callable[[Graph, Shares], Layouts]
    max_devices: int | None = None

    def layouts(self, graph: Graph, shares: Shares) -> Layouts:
        """The layout of each node; :class:`PlanError` if the scheme cannot split this network over so many devices."""
        if self.max_devices is not None and len(shares) > self.max_devices:
            raise PlanError(f"scheme {self.name} takes at most {self.max_devices} devices, got {len(shares)}")
        if not graph.nodes:
            raise PlanError(f"network '{graph.name}' has no operators: there is nothing to split")
        return self.choose(graph, shares)


def dims_of(graph: Graph, node: GraphNode) -> Dims:
    """The sizes of a node's first output."""
    return graph.tensors[node.outputs[0]].dims


def whole_on(graph: Graph, device: int) -> dict[str, Layout]:
    """Each node whole on one device."""
    return {node.name: Layout.on(device, dims_of(graph, node)) for node in graph.nodes}


def is_exchanged(graph: Graph, node: GraphNode) -> bool:
    """Whether devices may send each other parts of all that a node takes and makes; weights are not sent."""
    names = [*node.outputs, *(name for name in node.inputs.values() if name not in graph.stored)]
    return len(node.outputs) == 1 and all(graph.tensors[name].can_be_sent for name in names)


def cut_along(graph: Graph, node: GraphNode, letter: str, shares: Shares) -> tuple[int, tuple[Range, ...]] | None:
    """The axis of a node's output with this name and a range of it for each device; None if it cannot be cut there.

    Devices with a share of 0 get nothing. A node whose tensors cannot be sent is not cut.
    """
    axes, dims = graph.tensors[node.outputs[0]].axes, dims_of(graph, node)
    if letter not in axes or not is_exchanged(graph, node):
        return None
    axis = axes.index(letter)
    multiple = graph.cuts_of(node).get(axis)
    if multiple is None:
        return None
    ranges = shares_of(dims[axis], shares, multiple)
    return (axis, ranges) if sum(start < stop for start, stop in ranges) > 1 else None


def split_where_possible(graph: Graph, letter: str, shares: Shares) -> dict[str, Layout]:
    """Each node split along the axis of this name, with partial results of what joins all places along it.

    What cannot be split is whole on the first device that has a share; small layers on joined places are on each.
    """
    return with_partial_results(graph, cut_where_possible(graph, letter, shares))


def cut_where_possible(graph: Graph, letter: str, shares: Shares) -> dict[str, Layout]:
    """Each node split along the axis of this name, or whole on the first device that has a share."""
    first = next(rank for rank, share in enumerate(shares) if share)
    return {node.name: split_or_on(graph, node, letter, shares, first) for node in graph.nodes}


def split_or_on(graph: Graph, node: GraphNode, letter: str, shares: Shares, device: int) -> Layout:
    """A node split along the axis of this name, or whole on a device."""
    cut, dims = cut_along(graph, node, letter, shares), dims_of(graph, node)
    return Layout.on(device, dims) if cut is None else Layout.split(dims, cut[0], cut[1])


def kept_whole(graph: Graph, layouts: Mapping[str, Layout]) -> tuple[GraphNode, ...]:
    """The nodes that one device computes alone."""
    return tuple(node for node in graph.nodes if len(layouts[node.name].devices) == 1)
