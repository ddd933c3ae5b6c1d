"""Operators that stay together, because a tensor between them cannot be sent: windows of attention, whole numbers.

A message holds fp32 values that begin with the axis of samples. A tensor that does not, as windows that were moved
into this axis, ties the operator that makes it to those that take it. Each device computes what it needs of such
operators itself, from tensors that can be sent: what two devices need of them is computed twice.
"""

from __future__ import annotations

from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.propagation import consumers_of, fused


def tied(graph: Graph, layouts: Layouts) -> Layouts:
    """The layouts with all that is needed of tied operators computed where it is needed."""
    runs = runs_of_tied(graph)
    return fused(graph, layouts, runs) if runs else layouts


def runs_of_tied(graph: Graph) -> dict[str, str]:
    """The run of each tied operator, named after one of them; no tensor that cannot be sent leaves its run."""
    consumers, parents = consumers_of(graph), dict[str, str]()

    def root(name: str) -> str:
        while parents[name] != name:
            parents[name] = name = parents[parents[name]]
        return name

    for node in graph.nodes:
        kept = [name for name in node.outputs if not graph.tensors[name].can_be_sent]
        for reader in (reader for name in kept for reader in consumers.get(name, ())):
            for each in (node.name, reader.name):
                parents.setdefault(each, each)
            parents[root(reader.name)] = root(node.name)
    return {name: root(name) for name in parents}
