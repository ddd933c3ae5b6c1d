"""What each device computes of a graph under given layouts, and the regions that it needs for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.regions import Layout, intersection, joined, remaining
from sepnas.plan.kinds.derived import SmallerUse
from sepnas.plan.kinds.kind import Restriction, whole
from sepnas.plan.shapes import Region

Layouts = Mapping[str, Layout]
"""The layout of each node's output, by the node's name."""
_Piece: TypeAlias = tuple[int, Region]


@dataclass(frozen=True, slots=True)
class NodePart:
    """The part of a node that one device computes: ``region`` of its output, by a smaller use of its operator.

    With ``terms``, it joins only these of the terms.
    """

    node: GraphNode
    device: int
    region: Region
    smaller: SmallerUse
    terms: Region | None = None

    @property
    def needs(self) -> Mapping[str, Region]:
        """The regions of operands, by role."""
        return self.smaller.found.inputs

    @property
    def macs(self) -> int:
        return self.smaller.macs


def parts_of(graph: Graph, node: GraphNode, layout: Layout) -> tuple[NodePart, ...]:
    """The parts of a node; :class:`PlanError` if its operator cannot be cut so."""
    derived = graph.derived(node)
    if derived is None or len(node.outputs) > 1:
        return tuple(_opaque_parts(graph, node, layout))
    if not layout.spans:
        return tuple([NodePart(node, device, region, derived.part(region)) for device, region in layout.pieces])
    if derived.terms is None or derived.terms.count < 2:
        raise PlanError(f"node '{node.name}' ({node.operator}) has no partial sums")
    everything = whole(graph.tensors[node.outputs[0]].dims)
    spans = layout.spans.items()
    return tuple([NodePart(node, device, everything, derived.partial(span), span) for device, span in spans])


def _opaque_parts(graph: Graph, node: GraphNode, layout: Layout) -> Iterator[NodePart]:
    shapes = tuple(graph.tensors[name].dims for name in node.outputs)
    inputs = {role: whole(graph.tensors[name].dims) for role, name in node.inputs.items()}
    for device, region in layout.pieces:
        if region != whole(shapes[0]) or layout.spans:
            raise PlanError(f"node '{node.name}' ({node.operator}) cannot be cut: its operator has no registered kind")
        found = Restriction(inputs, node.attributes, region)
        yield NodePart(node, device, region, SmallerUse(node.kind, graph.use(node), found, shapes))


@dataclass(frozen=True)
class GraphWork:
    """What devices compute: the pieces of each node's output that somebody needs, and the parts that make them.

    ``needs`` are the regions of each tensor that each device needs, by tensor and device; those that overlap are
    joined.
    """

    layouts: Layouts
    parts: Mapping[str, tuple[NodePart, ...]]
    needs: Mapping[str, Mapping[int, tuple[Region, ...]]]


def work_of(graph: Graph, layouts: Layouts, gathered: Mapping[str, int]) -> GraphWork:
    """The work under layouts if each tensor of ``gathered`` is needed whole by a device."""
    stored, needs = graph.stored, dict[str, dict[int, list[Region]]]()
    kept: dict[str, Layout] = {}
    parts: dict[str, tuple[NodePart, ...]] = {}
    for name, device in gathered.items():
        needs.setdefault(name, {}).setdefault(device, []).append(whole(graph.tensors[name].dims))
    for node in reversed(graph.nodes):
        layout = kept[node.name] = _needed(layouts[node.name], _wanted(graph, node, needs))
        parts[node.name] = parts_of(graph, node, layout)
        for part in parts[node.name]:
            for role, region in part.needs.items():
                name = node.inputs[role]
                if name not in stored:
                    needs.setdefault(name, {}).setdefault(part.device, []).append(region)
    found = {
        name: {device: tuple(joined(regions)) for device, regions in sorted(each.items())}
        for name, each in needs.items()
    }
    return GraphWork(kept, parts, found)


def _wanted(graph: Graph, node: GraphNode, needs: Mapping[str, Mapping[int, Sequence[Region]]]) -> list[_Piece]:
    """The regions of a node's output that devices need; one with several outputs is needed whole."""
    found = [
        (device, region) for name in node.outputs for device, each in needs.get(name, {}).items() for region in each
    ]
    if len(node.outputs) == 1:
        return found
    everything = whole(graph.tensors[node.outputs[0]].dims)
    return [(device, everything) for device in dict.fromkeys(device for device, _ in found)]


def _needed(layout: Layout, wanted: Sequence[_Piece]) -> Layout:
    """A layout without the pieces of which nobody needs anything but what others have who need it too."""
    own = [
        (device, region)
        for device, region in layout.pieces
        if any(device == each and intersection(region, need) for each, need in wanted)
    ]
    left = remaining([need for _, need in wanted], [region for _, region in own])
    pieces = []
    for piece in layout.pieces:
        if piece in own or any(intersection(piece[1], region) for region in left):
            left = remaining(left, [piece[1]])
            pieces.append(piece)
    return Layout(tuple(pieces), layout.spans if pieces else {})
