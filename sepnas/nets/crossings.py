"""The operands of a separated graph's nodes that other devices send, and the wire format of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from sepnas.errors import SpecError
from sepnas.nets.exchange import through_wire
from sepnas.partition.graph import Graph
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Region
from sepnas.plan.wire import UNCONVERTED, WireFormat


@dataclass(frozen=True)
class Rounding:
    """How an operand is rounded on its way: in a format, all of it or these ``regions``, each a message by itself."""

    wire: WireFormat
    regions: tuple[Region, ...] = ()

    def of(self, x: Tensor) -> Tensor:
        """The operand ``(B, ...)`` as it arrives; gradients pass straight through."""
        if not self.regions:
            return through_wire(x, self.wire)
        found = x.clone()
        for region in self.regions:
            place = (slice(None), *(slice(*each) for each in region.ranges[1:]))
            found[place] = through_wire(x[place], self.wire)
        return found


Crossings: TypeAlias = Mapping[tuple[str, str], Rounding]
"""The operands that are rounded on their way, by the node's name and the operand's role."""


def crossings_of(graph: Graph, plan: Plan) -> Crossings:
    """The operands that cross between devices in another format than fp32.

    Raises :class:`SpecError` unless the plan is the graph's: each node lies whole on one device, or in tiles on all,
    there are no others, and the messages are those of the operands that other devices make.
    """
    places = _places(graph, plan)
    wires = {(_whole(graph, each.tensor), each.destination): each.wire for each in plan.transfers()}
    found: dict[tuple[str, str], Rounding] = {}
    used = set[tuple[str, int]]()
    for node in graph.nodes:
        for role, tensor in node.inputs.items():
            maker, at = graph.makers.get(tensor), places[node.name]
            if maker is None or len(at) > 1:  # tiles have their rims themselves
                continue
            [device], elsewhere = at, {rank: each for rank, each in places[maker.name].items() if rank not in at}
            if elsewhere:
                if (tensor, device) not in wires:
                    raise _another(graph, f"device {device} is not sent '{tensor}', which its '{node.name}' takes")
                used.add((tensor, device))
                in_tiles = len(places[maker.name]) > 1
                regions = tuple(each for found_there in elsewhere.values() for each in found_there)
                found[node.name, role] = Rounding(wires[tensor, device], regions if in_tiles else ())
    if unused := sorted(wires.keys() - used):
        tensor, device = unused[0]
        for node in graph.nodes:
            if tensor in node.inputs.values() and len(places[node.name]) > 1:
                raise SpecError(f"plan of network '{graph.name}': '{node.name}' is split over several devices")
        raise _another(graph, f"device {device} is sent '{tensor}', which none of its operators takes")
    return {key: each for key, each in found.items() if each.wire != UNCONVERTED}


def _whole(graph: Graph, name: str) -> str:
    """The tensor of the graph of which a device's tensor is a part."""
    while name not in graph.makers and "#" in name:
        name = name.rpartition("#")[0]
    return name


def _places(graph: Graph, plan: Plan) -> dict[str, dict[int, list[Region]]]:
    """The devices of each node, by name, and the regions of its output that each computes."""
    found: dict[str, dict[int, list[Region]]] = {}
    for segments in plan.segments:
        for segment in segments.values():
            for part in segment.nodes:
                regions = found.setdefault(part.layer, {}).setdefault(segment.device, [])
                if part.region is not None:
                    regions.append(part.region)
    names = [node.name for node in graph.nodes]
    for name in names:
        if name not in found:
            raise _another(graph, f"no device computes '{name}'")
    if further := sorted(found.keys() - set(names)):
        raise _another(graph, f"device {min(found[further[0]])} computes '{further[0]}', which the graph does not have")
    return found


def _another(graph: Graph, why: str) -> SpecError:
    return SpecError(f"plan of network '{graph.name}': {why}; it is another network's, or another separation's")
