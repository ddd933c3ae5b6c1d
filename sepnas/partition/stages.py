"""Contiguous stages of a graph: the places where it can be cut between layers, and the cuts of the lowest cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

from sepnas.errors import PlanError
from sepnas.partition.estimates import MACS_PER_BYTE
from sepnas.partition.graph import Graph
from sepnas.partition.regions import Layout
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import FLOAT_BYTES

_Cost: TypeAlias = tuple[float, float]


def crossing_bytes(graph: Graph) -> list[int | None]:
    """The bytes of the tensors that cross a cut before each node; None where a tensor could not be sent.

    A tensor that only weights make is not sent.
    """
    stored = graph.stored.union(graph.inputs)
    last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs.values()}
    last |= {output.tensor: len(graph.nodes) for output in graph.outputs}
    made = {name: place for place, node in enumerate(graph.nodes) for name in node.outputs}
    changes: list[int] = [0] * (len(graph.nodes) + 2)
    barred: list[int] = [0] * (len(graph.nodes) + 2)
    for name, place in made.items():
        if name in stored or last.get(name, place) == place:
            continue
        tensor = graph.tensors[name]
        amount = FLOAT_BYTES * whole(tensor.dims).num_values
        for counts, value in ((changes, amount), (barred, 0 if tensor.can_be_sent else 1)):
            counts[place + 1] += value
            counts[last[name] + 1] -= value
    sums, bars = list(accumulate(changes)), list(accumulate(barred))
    return [None if bars[place] else sums[place] for place in range(len(graph.nodes))]


def best_cuts(graph: Graph, shares: Sequence[float], slowest: bool) -> list[int]:
    """The places at which stages begin, the first of which is 0, for a stage on each device in turn.

    With ``slowest``, the cost is the time of the slowest stage, which computes while its next input arrives (for
    throughput); otherwise the sum of all times (for latency). Of equal cuts, those with the most even stages are taken.
    """
    macs = [0, *accumulate(map(graph.macs_of, graph.nodes))]
    crossing = crossing_bytes(graph)
    places = [place for place, each in enumerate(crossing) if place and each is not None]
    scale = len(shares) / sum(shares)
    best: dict[int, tuple[_Cost, list[int]]] = {0: ((0.0, 0.0), [])}
    for rank, share in enumerate(shares):
        found: dict[int, tuple[_Cost, list[int]]] = {}
        for stop in [len(graph.nodes)] if rank == len(shares) - 1 else places:
            for start, (cost, cuts) in best.items():
                if start < stop:
                    computing = (macs[stop] - macs[start]) / (share * scale)
                    total = _with_stage(cost, computing, MACS_PER_BYTE * (crossing[start] or 0), slowest)
                    if stop not in found or total < found[stop][0]:
                        found[stop] = total, [*cuts, start]
        best = found
    if not best:
        raise PlanError(f"network '{graph.name}' cannot be cut between layers into {len(shares)} stages")
    return best[len(graph.nodes)][1]


def _with_stage(cost: _Cost, computing: float, sending: float, slowest: bool) -> _Cost:
    """The cost with one stage more, and the longest computing of a stage."""
    most = max(cost[1], computing)
    return (max(cost[0], computing, sending) if slowest else cost[0] + computing + sending), most


def stages(graph: Graph, begins: Sequence[int]) -> dict[str, Layout]:
    """Each node whole on the device of its stage; device i has the nodes from ``begins[i]`` on."""
    found, device = {}, -1
    for place, node in enumerate(graph.nodes):
        device += place in begins
        found[node.name] = Layout.on(device, graph.tensors[node.outputs[0]].dims)
    return found
