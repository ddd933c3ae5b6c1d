"""What each device computes of a graph under given layouts, and the regions that it needs for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.regions import Layout, intersection, joined
from sepnas.plan.kinds.kind import Dims, OperatorUse, Restriction, whole
from sepnas.plan.shapes import Range, Region

Layouts = Mapping[str, Layout]
"""The layout of each node's output, by the node's name."""


@dataclass(frozen=True)
class NodePart:
    """The part of a node that one device computes: ``region`` of its output, with the operands of ``found``.

    ``shapes`` are the sizes of what the smaller use of the operator makes, of which ``found.crop`` is the region. With
    ``terms``, it is a partial sum over this range.
    """

    node: GraphNode
    device: int
    region: Region
    found: Restriction
    shapes: tuple[Dims, ...]
    terms: Range | None = None

    def use(self) -> OperatorUse:
        """The smaller use of the operator."""
        return OperatorUse(self.found.attributes, {role: each.dims for role, each in self.found.inputs.items()})

    @property
    def macs(self) -> int:
        return self.node.kind.macs(self.use()) if self.node.kind else 0


def parts_of(graph: Graph, node: GraphNode, layout: Layout) -> tuple[NodePart, ...]:
    """The parts of a node; :class:`PlanError` if its operator cannot be cut so."""
    if node.kind is None or len(node.outputs) > 1:
        return tuple(_opaque_parts(graph, node, layout))
    use, dims = graph.use(node), graph.tensors[node.outputs[0]].dims
    if layout.spans:
        if node.kind.summed(use) < 2:
            raise PlanError(f"node '{node.name}' ({node.operator}) has no partial sums")
        return tuple(
            _part(node, device, whole(dims), node.kind.partial(use, span), span)
            for device, span in layout.spans.items()
        )
    return tuple(_part(node, device, region, node.kind.restrict(use, region)) for device, region in layout.pieces)


def _part(node: GraphNode, device: int, region: Region, found: Restriction, terms: Range | None = None) -> NodePart:
    assert node.kind is not None
    sizes = {role: each.dims for role, each in found.inputs.items()}
    return NodePart(node, device, region, found, (node.kind.output(OperatorUse(found.attributes, sizes)),), terms)


def _opaque_parts(graph: Graph, node: GraphNode, layout: Layout) -> Iterator[NodePart]:
    shapes = tuple(graph.tensors[name].dims for name in node.outputs)
    inputs = {role: whole(graph.tensors[name].dims) for role, name in node.inputs.items()}
    for device, region in layout.pieces:
        if region != whole(shapes[0]) or layout.spans:
            raise PlanError(f"node '{node.name}' ({node.operator}) cannot be cut: its operator has no registered kind")
        yield NodePart(node, device, region, Restriction(inputs, node.attributes, region), shapes)


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
        layout = kept[node.name] = _needed(layouts[node.name], [needs.get(name, {}) for name in node.outputs])
        parts[node.name] = parts_of(graph, node, layout)
        for part in parts[node.name]:
            for role, region in part.found.inputs.items():
                name = node.inputs[role]
                if name not in stored:
                    needs.setdefault(name, {}).setdefault(part.device, []).append(region)
    found = {
        name: {device: tuple(joined(regions)) for device, regions in sorted(each.items())}
        for name, each in needs.items()
    }
    return GraphWork(kept, parts, found)


def _needed(layout: Layout, needs: Sequence[Mapping[int, Sequence[Region]]]) -> Layout:
    """A layout without the pieces of which nobody needs anything."""
    wanted = [region for each in needs for regions in each.values() for region in regions]
    pieces = tuple(piece for piece in layout.pieces if any(intersection(piece[1], region) for region in wanted))
    return Layout(pieces, layout.spans if pieces else {})
