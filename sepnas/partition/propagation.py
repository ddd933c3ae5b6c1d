"""Regions followed backward through runs of operators: what each device must compute for its part of a run's end."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import parts_of
from sepnas.partition.regions import Layout, joined
from sepnas.plan.shapes import Region


def consumers_of(graph: Graph) -> dict[str, list[GraphNode]]:
    """The nodes that take each tensor."""
    found: dict[str, list[GraphNode]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs.values()):
            found.setdefault(name, []).append(node)
    return found


def fused(graph: Graph, base: Mapping[str, Layout], runs: Mapping[str, Hashable]) -> dict[str, Layout]:
    """Layouts in which each device computes all that its part of a run's end needs: nothing is exchanged within a run
    but partial results.

    ``runs`` names the run of each node; nodes without one have the layout of ``base``. Within a run, a node whose
    output is used outside, or by nobody, has its layout of ``base``, and besides it what later nodes of the run need.
    """
    consumers, answered = consumers_of(graph), {output.tensor for output in graph.outputs}
    found: dict[str, Layout] = {}
    needs: dict[tuple[Hashable, str], dict[int, list[Region]]] = {}
    for node in reversed(graph.nodes):
        run = runs.get(node.name)
        if run is None:
            found[node.name] = base[node.name]
            continue
        readers = [reader for name in node.outputs for reader in consumers.get(name, ())]
        outside = not readers or any(runs.get(each.name) != run for each in readers) or bool(answered & {*node.outputs})
        layout = base[node.name] if outside else Layout((), base[node.name].spans)
        needed = [needs.get((run, name), {}) for name in node.outputs]
        layout = found[node.name] = _with(graph, node, layout, needed)
        for part in parts_of(graph, node, layout):
            for role, region in part.needs.items():
                own = needs.setdefault((run, node.inputs[role]), {})
                own.setdefault(part.device, []).append(region)
    return {node.name: found[node.name] for node in graph.nodes}


def _with(graph: Graph, node: GraphNode, layout: Layout, needed: list[dict[int, list[Region]]]) -> Layout:
    """A layout together with the regions that are needed on each device; an opaque operator is computed whole.

    What is merged from partial results is so within a run too.
    """
    regions: dict[int, list[Region]] = {}
    for device, region in layout.pieces:
        regions.setdefault(device, []).append(region)
    for each in needed:
        for device, found in each.items():
            regions.setdefault(device, []).extend(found)
    if node.kind is None or len(node.outputs) > 1:
        return Layout.replicated(graph.tensors[node.outputs[0]].dims, sorted(regions))
    pieces = tuple((device, region) for device in sorted(regions) for region in joined(regions[device]))
    return Layout(pieces, layout.spans)
