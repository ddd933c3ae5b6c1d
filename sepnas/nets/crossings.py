"""The operands of a separated graph's nodes that another device sends, and the wire format of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph
from sepnas.plan.plan import Plan
from sepnas.plan.wire import UNCONVERTED, WireFormat

Crossings: TypeAlias = Mapping[tuple[str, str], WireFormat]
"""The format of each operand that is rounded on its way, by the node's name and the operand's role."""


def crossings_of(graph: Graph, plan: Plan) -> Crossings:
    """The operands that cross between devices in another format than fp32.

    Raises :class:`SpecError` unless the plan is the graph's: each node lies whole on one device, there are no others,
    and the messages are those of the operands that other devices make.
    """
    device_of = _devices(graph, plan)
    wires = {(each.tensor, each.destination): each.wire for each in plan.transfers()}
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for node in graph.nodes:
        for role, tensor in node.inputs.items():
            maker, device = graph.makers.get(tensor), device_of[node.name]
            if maker is not None and device_of[maker.name] != device:
                if (tensor, device) not in wires:
                    raise _another(graph, f"device {device} is not sent '{tensor}', which its '{node.name}' takes")
                found[node.name, role] = tensor, device
    if unused := sorted(wires.keys() - set(found.values())):
        tensor, device = unused[0]
        raise _another(graph, f"device {device} is sent '{tensor}', which none of its operators takes")
    return {key: wires[message] for key, message in found.items() if wires[message] != UNCONVERTED}


def _devices(graph: Graph, plan: Plan) -> dict[str, int]:
    """The device of each node, by name."""
    found: dict[str, int] = {}
    for segments in plan.segments:
        for segment in segments.values():
            for part in segment.nodes:
                if found.setdefault(part.layer, segment.device) != segment.device:
                    raise SpecError(f"plan of network '{graph.name}': '{part.layer}' is split over several devices")
    names = [node.name for node in graph.nodes]
    for name in names:
        if name not in found:
            raise _another(graph, f"no device computes '{name}'")
    if further := sorted(found.keys() - set(names)):
        raise _another(graph, f"device {found[further[0]]} computes '{further[0]}', which the graph does not have")
    return found


def _another(graph: Graph, why: str) -> SpecError:
    return SpecError(f"plan of network '{graph.name}': {why}; it is another network's, or another separation's")
