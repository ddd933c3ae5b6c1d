"""Counts of a graph: parameters, multiply-accumulates, and its operators by kind; counts of a split of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sepnas.partition.graph import Graph
from sepnas.plan.device_totals import macs_of_device, weight_bytes_of_device
from sepnas.plan.kinds.kind import sizes_text
from sepnas.plan.plan import Plan

_STATISTICS = frozenset(("running_mean", "running_var"))


@dataclass(frozen=True)
class OperatorCount:
    """All uses of one operator. ``opaque``: it has no registered kind, so that it is kept whole on one device."""

    operator: str
    count: int
    macs: int
    opaque: bool


@dataclass(frozen=True)
class GraphCounts:
    """Counts for one sample.

    ``parameters`` are the module's own; ``numbers_computed`` are stored numbers that were computed in advance, such as
    masks. ``layers`` are the operators that multiply. ``opaque`` names each opaque operator with its module.
    """

    name: str
    source: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    parameters: int
    numbers_computed: int
    numbers_stored: int
    macs: int
    layers: int
    operators: tuple[OperatorCount, ...]
    opaque: tuple[str, ...]


def count_graph(graph: Graph) -> GraphCounts:
    """Count a graph; operators with most MACs come first."""
    found: dict[str, OperatorCount] = {}
    for node in graph.nodes:
        before = found.get(node.operator, OperatorCount(node.operator, 0, 0, node.kind is None))
        macs = before.macs + graph.macs_of(node)
        found[node.operator] = OperatorCount(node.operator, before.count + 1, macs, before.opaque)
    opaque = dict.fromkeys(f"{node.operator} in {node.module or 'the network itself'}" for node in graph.opaque_nodes)
    return GraphCounts(
        name=graph.name,
        source=graph.source,
        inputs={name: _shape_text(graph, name) for name in graph.inputs},
        outputs={output.name: _shape_text(graph, output.tensor) for output in graph.outputs},
        parameters=_parameters(graph) if graph.num_parameters is None else graph.num_parameters,
        numbers_computed=_numbers(graph, graph.computed),
        numbers_stored=graph.num_weights,
        macs=graph.macs,
        layers=sum(graph.macs_of(node) > 0 for node in graph.nodes),
        operators=tuple(sorted(found.values(), key=lambda each: (-each.macs, -each.count, each.operator))),
        opaque=tuple(opaque),
    )


def _parameters(graph: Graph) -> int:
    """The stored numbers but the statistics of batch norms, of a graph that does not count its parameters."""
    weights = [each for node in graph.nodes for each in graph.weights_of(node).items()]
    statistics = {name for role, name in weights if role in _STATISTICS}
    return graph.num_weights - _numbers(graph, statistics)


def _numbers(graph: Graph, names: Iterable[str]) -> int:
    return sum(math.prod(graph.tensors[name].dims) for name in names)


def _shape_text(graph: Graph, name: str) -> str:
    tensor = graph.tensors[name]
    return f"{tensor.axes} {sizes_text(tensor.dims)}"


@dataclass(frozen=True)
class PartitionCounts:
    """Counts of a split for one sample.

    ``whole`` names the operators with MACs that one device computes alone, if others are split.
    """

    network_macs: int
    macs: tuple[int, ...]
    weight_bytes: tuple[int, ...]
    payload_bytes: int
    transfers: int
    whole: tuple[str, ...]


def count_partition(graph: Graph, plan: Plan) -> PartitionCounts:
    """Count a plan that a scheme made of a graph."""
    computed: dict[str, set[int]] = {}
    for rank, segments in enumerate(plan.segments):
        for layer in (layer for segment in segments.values() for layer in segment.layers):
            computed.setdefault(layer, set()).add(rank)
    costly = [node for node in graph.nodes if node.kind is None or graph.macs_of(node)]
    alone = [node for node in costly if len(computed.get(node.name, ())) == 1]
    return PartitionCounts(
        network_macs=graph.macs,
        macs=tuple(macs_of_device(plan, rank) for rank in range(plan.num_devices)),
        weight_bytes=tuple(weight_bytes_of_device(plan, rank) for rank in range(plan.num_devices)),
        payload_bytes=plan.payload_bytes(),
        transfers=len(plan.transfers()),
        whole=tuple(f"{node.name} ({node.operator})" for node in alone if len(alone) < len(costly)),
    )
