"""Messages that a change of layout takes: the regions that devices lack, and the devices that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sepnas.assign.cells import NodeCell
from sepnas.assign.facts import GraphFacts
from sepnas.cost.routes import link_between
from sepnas.errors import PlanError
from sepnas.partition.regions import Layout, intersection, joined, remaining
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import Region
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import UNCONVERTED, WireFormat, payload_bytes
from sepnas.spec.cluster import Cluster

RegionTransfer: TypeAlias = tuple[int, int, int, Region]
"""Source, destination, payload bytes, and the region of the tensor."""


class Transfers:
    """The messages between cells on a cluster in one wire format; None where a device lacks values it cannot get."""

    def __init__(self, facts: GraphFacts, cluster: Cluster, wire: WireFormat) -> None:
        self._facts, self._cluster, self._wire = facts, cluster, wire
        self._known: dict[object, tuple[RegionTransfer, ...] | None] = {}

    def between(self, tensor: str, maker: NodeCell, reader: NodeCell) -> tuple[RegionTransfer, ...] | None:
        """The messages with a tensor from the devices that make it to those that read it."""
        key = tensor, maker, reader
        if key not in self._known:
            self._known[key] = self._made(tensor, maker.layout, reader.needs.get(tensor, {}))
        return self._known[key]

    def gathered(self, tensor: str, maker: NodeCell, device: int) -> tuple[RegionTransfer, ...] | None:
        """The messages that bring all of a tensor to one device."""
        everything = {device: (whole(self._facts.graph.tensors[tensor].dims),)}
        return self._made(tensor, maker.layout, everything)

    def from_client(self, tensor: str, reader: NodeCell) -> tuple[RegionTransfer, ...]:
        """The messages with an input of the network, in fp32."""
        return tuple(
            (CLIENT, device, payload_bytes(region.num_values, UNCONVERTED), region)
            for device, regions in reader.needs.get(tensor, {}).items()
            for region in joined(regions)
        )

    def partial(self, cell: NodeCell, tensor: str) -> tuple[RegionTransfer, ...] | None:
        """The messages with partial sums to the devices that keep the sum."""
        return self._allowed(
            tensor,
            [
                (source, device, self._bytes(region), region)
                for device, region in cell.layout.pieces
                for source in cell.layout.spans
                if source != device
            ],
        )

    def _made(
        self, tensor: str, layout: Layout, needs: Mapping[int, tuple[Region, ...]]
    ) -> tuple[RegionTransfer, ...] | None:
        found, owned = list[RegionTransfer](), dict[int, list[Region]]()
        for owner, own in layout.pieces:
            owned.setdefault(owner, []).append(own)
        for device, regions in needs.items():
            nearest = sorted(owned.keys() - {device}, key=lambda rank: (abs(rank - device), rank))
            for need in joined(regions):
                lacking = remaining([need], owned.get(device, ()))
                for source, own in ((rank, each) for rank in nearest for each in owned[rank]):
                    if not lacking:
                        break
                    common = [part for box in lacking if (part := intersection(box, own))]
                    found += [(source, device, self._bytes(part), part) for part in common]
                    lacking = remaining(lacking, [own]) if common else lacking
                if lacking:
                    return None
        return self._allowed(tensor, found)

    def _bytes(self, region: Region) -> int:
        return payload_bytes(region.num_values, self._wire)

    def _allowed(self, tensor: str, found: Sequence[RegionTransfer]) -> tuple[RegionTransfer, ...] | None:
        """The messages; None if the tensor cannot be sent, or there is no link for one of them.

        Receivers take turns, as they do on real wires.
        """
        if found and not self._facts.graph.tensors[tensor].can_be_sent:
            return None
        counts: dict[int, int] = {}
        turns = []
        for each in found:
            turns.append((counts.setdefault(each[1], 0), each))
            counts[each[1]] += 1
        turns.sort(key=lambda pair: pair[0])
        found = [each for _, each in turns]
        return tuple(found) if all(self._has_link(source, device) for source, device, _, _ in found) else None

    def _has_link(self, source: int, destination: int) -> bool:
        try:
            return link_between(self._cluster, source, destination) is not None
        except PlanError:
            return False
