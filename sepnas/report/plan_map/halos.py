"""Halos: what a device lacks of a layer's input, by the halo rule of the layer's operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.regions import remaining
from sepnas.plan.shapes import Region
from sepnas.report.plan_map.folding import Group, Laid
from sepnas.report.plan_map.layers import LayerPart, MappedLayer
from sepnas.report.plan_map.tiles import View
from sepnas.report.plan_map.values import Box, Halo

_LARGEST = 0.5
"""What is more than this share of a tensor is no halo: all of it is gathered."""
_MOST = 0.7
"""Halos of all devices that cover more of a tensor are not drawn: they would hide the tiles."""


def halos_of(graph: Graph, group: Group, made: Mapping[str, MappedLayer]) -> tuple[Halo, ...]:
    """The largest halos among a group's layers, if they leave room; ``made`` is the layer of each tensor."""
    nodes = {node.name: node for node in graph.nodes}
    found = [tuple(_halos(graph, nodes[each.layer.name], each, made)) for each in group if each.layer.name in nodes]
    largest = max(found, key=_covered, default=())
    return largest if _covered(largest) < _MOST else ()


def _covered(halos: Iterable[Halo]) -> float:
    return sum(_size(halo.box) for halo in halos)


def _halos(graph: Graph, node: GraphNode, laid: Laid, made: Mapping[str, MappedLayer]) -> Iterator[Halo]:
    if node.kind is None or laid.is_whole or laid.layer.partial:
        return
    use = graph.use(node)
    for part in laid.layer.parts:
        if part.region is None:
            continue
        for role, needed in node.kind.restrict(use, part.region).inputs.items():
            source = made.get(node.inputs[role])
            if source is not None and len(source.dims) == len(laid.layer.dims):
                yield from _lacking(needed, part, source, laid.view)


def _lacking(needed: Region, part: LayerPart, source: MappedLayer, view: View) -> Iterator[Halo]:
    parts = () if source.partial else source.parts
    own = [each.region for each in parts if each.device == part.device and each.region is not None]
    boxes = [view.box(region, source.dims) for region in remaining([needed], own)]
    if sum(map(_size, boxes)) < _LARGEST:
        yield from (Halo(box, part.device) for box in boxes)


def _size(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
