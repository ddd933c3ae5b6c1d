"""Partial results where maps are split: a mean over all places takes those of each device, and nothing is gathered.

Each device joins the rows, or the tile, that it has of a map to one value for each channel, and these are exchanged
instead of the map. Layers on the joined values are small, so that each device computes those that it needs itself: the
gates of a squeeze-and-excite scale the rows of each device without another exchange. What only one device needs, such
as a classifier, is left to it alone (:mod:`sepnas.partition.parts`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sepnas.partition.estimates import MACS_PER_EXCHANGE
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.regions import Layout, along, intersection
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import Region


def with_partial_results(graph: Graph, base: Mapping[str, Layout]) -> dict[str, Layout]:
    """Layouts in which operators that join places take those of each device, and each has the small layers on them."""
    found = dict(base)
    near: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        spans = _spans(graph, node, found)
        devices = tuple(spans) if spans else _near_all(graph, node, base[node.name], near)
        if devices:
            dims = graph.tensors[node.outputs[0]].dims
            found[node.name] = Layout(Layout.replicated(dims, devices).pieces, spans)
            near |= dict.fromkeys(node.outputs, devices)
    return found


def _near_all(graph: Graph, node: GraphNode, layout: Layout, near: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The devices that have all operands of a small layer which one device would compute; none if it is not one."""
    operands = [name for name in node.inputs.values() if name not in graph.stored]
    small = node.kind is not None and graph.macs_of(node) <= MACS_PER_EXCHANGE
    if not small or len(layout.devices) > 1 or not operands or not all(name in near for name in operands):
        return ()
    return near[operands[0]]


def _spans(graph: Graph, node: GraphNode, layouts: Mapping[str, Layout]) -> dict[int, Region]:
    """The terms of each device in an operator without products, as its operand is split; none where they are not."""
    derived = graph.derived(node)
    terms = derived.terms if derived is not None and len(node.outputs) == 1 else None
    output = graph.tensors[node.outputs[0]]
    if terms is None or graph.macs_of(node) or not output.can_be_sent or len(output.dims) < 2:
        return {}
    name = node.inputs[terms.role]
    if name not in graph.makers or not graph.tensors[name].can_be_sent:
        return {}
    layout, everything = layouts[graph.makers[name].name], whole(graph.tensors[name].dims)
    pieces = dict(layout.pieces)
    regions = list(pieces.values())
    apart = all(intersection(a, b) is None for place, a in enumerate(regions) for b in regions[:place])
    if layout.spans or len(pieces) < 2 or len(pieces) < len(layout.pieces) or not apart:
        return {}
    for axis in terms.axes:
        regions = [along(region, axis, everything.ranges[axis]) for region in regions]
    if any(region != everything for region in regions):  # cut along another axis too
        return {}
    return {device: terms.of(region) for device, region in sorted(pieces.items())}
