"""The layers of a plan with the part of each device, read from its segments."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sepnas.plan.kinds.kind import Dims, OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.segment_node import SegmentNode
from sepnas.plan.shapes import Region
from sepnas.plan.steps import Compute


@dataclass(frozen=True, slots=True)
class LayerPart:
    """What one device computes of a layer; without ``region`` it is a layer of its own, and its MACs are unknown."""

    device: int
    region: Region | None = None
    terms: Region | None = None
    macs: int = 0


@dataclass(frozen=True, slots=True)
class MappedLayer:
    """One layer; ``dims`` are the sizes of its output, the batch axis included, or none."""

    name: str
    operator: str
    dims: Dims
    parts: tuple[LayerPart, ...]

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(part.device for part in self.parts))

    @property
    def partial(self) -> bool:
        """Whether each device joins a share of the terms of each value."""
        return any(part.terms for part in self.parts)


def layers_of(plan: Plan, sent: Iterable[tuple[str, str]]) -> tuple[MappedLayer, ...]:
    """The layers in an order of computation; ``sent`` are the pairs of layers between which messages travel."""
    found: dict[str, list[LayerPart]] = {}
    operators: dict[str, str] = {}
    orders = []
    for rank in range(plan.num_devices):
        own = list(_parts_on(plan, rank))
        orders.append(list(dict.fromkeys(name for name, _, _ in own)))
        for name, operator, part in own:
            found.setdefault(name, []).append(part)
            operators[name] = operator
    edges = [*(pair for order in orders for pair in pairwise(order)), *sent]
    return tuple(
        MappedLayer(name, operators[name], _dims(found[name]), tuple(found[name])) for name in _sorted(found, edges)
    )


def _parts_on(plan: Plan, rank: int) -> Iterator[tuple[str, str, LayerPart]]:
    """Each layer of a device in order: its name, its operator and the device's part."""
    for step in plan.programs[rank]:
        if not isinstance(step, Compute):
            continue
        segment = plan.segments[rank][step.segment]
        if not segment.nodes:
            for name in segment.layers:
                yield name, "", LayerPart(rank)
            continue
        sizes = {
            port: (1, *plan.shapes[rank][name].dims) for port, name in zip(segment.inputs, step.inputs, strict=True)
        }
        for node, macs in _with_macs(segment, sizes):
            if node.region is not None:
                yield node.layer, node.operator, LayerPart(rank, node.region, node.terms, macs)


def _with_macs(segment: Segment, sizes: Mapping[str, Dims]) -> Iterator[tuple[SegmentNode, int]]:
    known: dict[str | int, Dims] = {}
    known.update(sizes)
    known.update((at, each.region.dims) for at, each in enumerate(segment.weights))
    for node in segment.nodes:
        kind = GRAPH_OPERATORS.get(node.operator)
        operands = {role: known[name] for role, name in node.inputs.items()}
        yield node, kind.macs(OperatorUse(node.attributes, operands)) if kind else 0
        known.update(zip(node.outputs, node.shapes, strict=True))


def _dims(parts: Iterable[LayerPart]) -> Dims:
    """The sizes of a layer's output: where the last of its regions ends on each axis."""
    regions = [part.region for part in parts if part.region is not None]
    return tuple(max(stop for _, stop in ranges) for ranges in zip(*(region.ranges for region in regions), strict=True))


def _sorted(names: Mapping[str, object], edges: Iterable[tuple[str, str]]) -> list[str]:
    """The names with the first of each pair before the second, otherwise as they stand."""
    place = {name: at for at, name in enumerate(names)}
    after: dict[str, set[str]] = {name: set() for name in names}
    for first, second in edges:
        if first in after and second in after and first != second:
            after[first].add(second)
    waits = dict.fromkeys(names, 0)
    for second in (each for seconds in after.values() for each in seconds):
        waits[second] += 1
    ready = [(place[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    found: list[str] = []
    while ready:
        found.append(heapq.heappop(ready)[1])
        for second in after[found[-1]]:
            waits[second] -= 1
            if not waits[second]:
                heapq.heappush(ready, (place[second], second))
    return [*found, *(name for name in names if waits[name])]  # a plan that was written by hand may be in any order
