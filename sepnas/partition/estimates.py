"""Estimates of a split's time, in multiply-accumulates of an average device: what schemes compare their choices by.

An operator takes as long as its slowest device; before it, the bytes that the device with most is sent. These are
estimates for choosing, not predictions: :mod:`sepnas.cost` prices plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sepnas.partition.graph import Graph
from sepnas.partition.parts import NodePart, parts_of
from sepnas.partition.propagation import consumers_of
from sepnas.partition.regions import Layout, joined, remaining
from sepnas.plan.shapes import FLOAT_BYTES, Region

MACS_PER_BYTE = 400.0
"""Multiply-accumulates of one device in the time of one byte: 5 G a second against 100 Mbit/s."""
MACS_PER_EXCHANGE = 5e6
"""The same for an exchange of any size, which takes a millisecond."""


@dataclass(frozen=True)
class SplitTimes:
    """The times of a graph's operators and exchanges under layouts of all its nodes, for devices with ``shares``."""

    graph: Graph
    layouts: Mapping[str, Layout]
    shares: Sequence[float]

    @cached_property
    def parts(self) -> dict[str, tuple[NodePart, ...]]:
        return {node.name: parts_of(self.graph, node, self.layouts[node.name]) for node in self.graph.nodes}

    @cached_property
    def computing(self) -> list[float]:
        """The time of each node on its slowest device."""
        scale = len(self.shares) / sum(self.shares)
        return [
            max((part.macs / (self.shares[part.device] * scale) for part in self.parts[node.name]), default=0.0)
            for node in self.graph.nodes
        ]

    @cached_property
    def exchanging(self) -> dict[str, float]:
        """The time in which the devices get what they lack of each tensor that a node makes."""
        consumers, found = consumers_of(self.graph), dict[str, float]()
        for node in self.graph.nodes:
            for name in node.outputs:
                readers = [part for each in consumers.get(name, ()) for part in self.parts[each.name]]
                found[name] = exchange_time(name, self.layouts[node.name], readers)
        return found

    def by_place(self) -> list[float]:
        """The time of each node, with the exchanges of the tensors that it is the first to take."""
        taken, found = set[str](), []
        for node, computing in zip(self.graph.nodes, self.computing, strict=True):
            new = {*node.inputs.values()} - taken
            taken |= new
            found.append(computing + sum(self.exchanging.get(name, 0.0) for name in new))
        return found


def exchange_time(tensor: str, layout: Layout, readers: Sequence[NodePart]) -> float:
    """The time in which devices get what ``readers`` need of a tensor and lack; for partial results, others' shares."""
    needs: dict[int, list[Region]] = {}
    for part in readers:
        for role, region in part.needs.items():
            if part.node.inputs[role] == tensor:
                needs.setdefault(part.device, []).append(region)
    received = max((lacked_values(regions, layout, device) for device, regions in needs.items()), default=0)
    if layout.spans:
        others = len(layout.spans) - 1
        received = max(received, others * max(region.num_values for _, region in layout.pieces))
    return MACS_PER_EXCHANGE + MACS_PER_BYTE * FLOAT_BYTES * received if received else 0.0


def lacked_values(regions: Sequence[Region], layout: Layout, device: int) -> int:
    """The number of values of regions that a device does not compute."""
    own = [region for owner, region in layout.pieces if owner == device]
    return sum(region.num_values for region in remaining(joined(regions), own))


def multiplying_places(graph: Graph) -> list[int]:
    """The places of nodes that multiply: where layouts may change."""
    return [place for place, node in enumerate(graph.nodes) if graph.macs_of(node)]
