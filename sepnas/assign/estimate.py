"""An estimate of the costs of layouts, operator by operator: quick enough to compare thousands of mixtures.

It follows the simulator's rules (devices compute in order, messages queue for wires and threads), but posts a message
when its reader is known, and counts no segments, so its times differ by some per cent from the simulator's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sepnas.assign.cells import Cells, NodeCell
from sepnas.assign.facts import GraphFacts
from sepnas.assign.label import Label
from sepnas.assign.transfers import RegionTransfer, Transfers
from sepnas.cost.routes import routes_of
from sepnas.cost.times import times_of
from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import contains, joined
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import FLOAT_BYTES, Region
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES, UNCONVERTED, WireFormat
from sepnas.spec.cluster import Cluster


class Estimator:
    """Estimates for one graph on one cluster, with messages in one wire format."""

    def __init__(self, graph: Graph, cluster: Cluster, wire: WireFormat = UNCONVERTED) -> None:
        self.graph, self.cluster, self.wire = graph, cluster, wire
        self.facts = GraphFacts(graph)
        self.cells = Cells(self.facts, cluster)
        self._transfers = Transfers(self.facts, cluster, wire)
        self._times, self._routes = times_of(cluster), routes_of(cluster)
        self._has_costs = any(each.exchange for each in self._times)
        self._inputs = frozenset(graph.inputs)

    def cells_of(self, layouts: Layouts) -> list[NodeCell]:
        """The cell of each node; :class:`PlanError` for a layout that a node does not allow."""
        return [self.cells.of(place, layouts[node.name]) for place, node in enumerate(self.facts.nodes)]

    def whole(self, layouts: Layouts, bounded: bool = True) -> Label | None:
        """The costs of layouts; None if a message is impossible or, if ``bounded``, a device's weights do not fit."""
        label = self.after(Label.start(self.cluster, bounded), self.cells_of(layouts))
        return None if label is None else self.answered(label)

    def after(self, before: Label, cells: Iterable[NodeCell]) -> Label | None:
        """The label after some more nodes, in the order of computation."""
        label = before.copy()
        return label if all(self._advance(label, cell) for cell in cells) else None

    def answered(self, before: Label) -> Label | None:
        """The label when the client has all outputs: each from a device that has all of it, or from device 0."""
        label = before.copy()
        for output in self.graph.outputs:
            found = label.made.get(output.tensor)
            if found is None:  # a network that answers with its input is not worth an estimate
                continue
            cell, times = found
            everything = whole(self.graph.tensors[output.tensor].dims)
            device = next((each for each, region in cell.layout.pieces if region == everything), 0)
            transfers = self._transfers.gathered(output.tensor, cell, device)
            if transfers is None:
                return None
            arrived_s = self._carried(label, output.tensor, transfers, times).get(device, 0.0)
            if transfers:
                self._assembled(label, output.tensor, {device: (everything,)}, transfers)
            now = label.clock_s[device] = max(label.clock_s[device], arrived_s, times.get(device, 0.0))
            nbytes = FLOAT_BYTES * everything.num_values
            label.client_bytes += nbytes
            label.answered_s = max(label.answered_s, label.network.carry((device, CLIENT), now, nbytes)[1])
        return label

    def _advance(self, label: Label, cell: NodeCell) -> bool:
        """Compute a node; False if it is impossible."""
        place, node = cell.place, self.facts.nodes[cell.place]
        ready: dict[int, float] = {}
        if not (self._takes(label, cell, ready) and self._compute(label, cell, ready)):
            return False
        times = {device: label.clock_s[device] for device in cell.layout.devices}
        if cell.layout.spans:
            partial = self._transfers.partial(cell, node.outputs[0])
            if partial is None:
                return False
            self._sum(label, cell, partial, times)
        for name in node.outputs:
            label.made[name] = cell, times
        for name in self.facts.ended(place):
            label.made.pop(name, None)
            label.tensors.release(name)
            if self.facts.readers.get(name, 0) > 1:
                label.received = {key: value for key, value in label.received.items() if key[0] != name}
        return True

    def _takes(self, label: Label, cell: NodeCell, ready: dict[int, float]) -> bool:
        """Send the devices what they lack of a node's operands; ``ready`` becomes when each has all; False if some
        cannot be sent."""
        for tensor in self.facts.operands[cell.place]:
            if tensor in self._inputs:
                arrivals = self._from_client(label, tensor, self._transfers.from_client(tensor, cell))
            else:
                maker, times = label.made[tensor]
                transfers = self._transfers.between(tensor, maker, cell)
                if transfers is None:
                    return False
                sent = label.messages
                arrivals = self._carried(label, tensor, transfers, times) if transfers else {}
                if label.messages > sent:
                    self._assembled(label, tensor, cell.needs[tensor], transfers)
            for device, arrival_s in arrivals.items():
                if arrival_s > ready.get(device, 0.0):
                    ready[device] = arrival_s
        return True

    def _assembled(
        self,
        label: Label,
        tensor: str,
        needs: Mapping[int, Sequence[Region]],
        transfers: Sequence[RegionTransfer],
    ) -> None:
        """Put together what devices have and were sent, unless all of it came in one message."""
        owners, last = label.made[tensor][0].layout.devices, self.facts.readers[tensor] == 1
        for device, count in Counter(device for _, device, _, _ in transfers).items():
            if count > 1 or device in owners:
                needed = sum(region.num_values for region in joined(needs[device]))
                label.tensors.assemble(tensor, device, FLOAT_BYTES * needed, last)

    def _compute(self, label: Label, cell: NodeCell, ready: dict[int, float]) -> bool:
        clock, began = label.clock_s, label.began_s
        for device, spent_s in cell.seconds:
            start_s = max(clock[device], ready.get(device, 0.0))
            began[device] = min(began[device], start_s)
            clock[device] = start_s + spent_s
            label.busy[device] += spent_s
        for name in self.facts.nodes[cell.place].outputs:
            for device, nbytes in cell.made_bytes:
                label.tensors.make(name, device, nbytes)
        for device, nbytes in cell.weight_bytes:
            label.weights[device] += nbytes
            if label.weights[device] > label.memory_bytes[device]:
                return False
        return True

    def _from_client(self, label: Label, tensor: str, transfers: Sequence[RegionTransfer]) -> dict[int, float]:
        ready: dict[int, float] = {}
        for _, device, nbytes, region in transfers:
            arrival_s = self._received(label, tensor, device, region)
            if arrival_s is None:
                arrival_s = label.network.carry((CLIENT, device), 0.0, nbytes)[1]
                label.client_bytes += nbytes
                label.received[tensor, device, region] = arrival_s
                label.tensors.receive(tensor, device, FLOAT_BYTES * region.num_values)
            ready[device] = max(ready.get(device, 0.0), arrival_s)
        return ready

    def _carried(
        self, label: Label, tensor: str, transfers: Sequence[RegionTransfer], made_s: dict[int, float]
    ) -> dict[int, float]:
        """Send regions of a tensor; when each device has the last of its own."""
        ready: dict[int, float] = {}
        again = self.facts.readers[tensor] > 1
        for source, device, nbytes, region in transfers:
            arrival_s = self._received(label, tensor, device, region) if again else None
            if arrival_s is None:
                arrival_s = self._sent(label, source, device, nbytes, region.num_values, made_s.get(source, 0.0))
                label.tensors.end_run(source)
                label.tensors.receive(tensor, device, FLOAT_BYTES * region.num_values)
                if again:
                    label.received[tensor, device, region] = arrival_s
            if arrival_s > ready.get(device, 0.0):
                ready[device] = arrival_s
        return ready

    def _received(self, label: Label, tensor: str, device: int, region: Region) -> float | None:
        """When a device had a region from an earlier message; None if it had none."""
        found = label.received.get((tensor, device, region))
        if found is not None or not label.received:
            return found
        had = (
            arrival_s
            for (name, rank, own), arrival_s in label.received.items()
            if rank == device and name == tensor and contains(own, region)
        )
        return next(had, None)

    def _sent(self, label: Label, source: int, device: int, nbytes: int, values: int, made_s: float) -> float:
        """Carry one message between devices; when it has arrived."""
        label.payload_bytes += nbytes
        label.messages += 1
        for rank in (source, device):
            label.sent_bytes[rank] += nbytes + FRAME_HEADER_BYTES
        if self._has_costs:
            made_s += self._handled(label, source, values, nbytes)
        _, arrival_s = label.network.carry((source, device), made_s, nbytes)
        for wire, spent_s in self._wires(source, device, nbytes):
            label.wires_s[wire] = label.wires_s.get(wire, 0.0) + spent_s
        return arrival_s + (self._handled(label, device, values, nbytes) if self._has_costs else 0.0)

    def _handled(self, label: Label, device: int, values: int, nbytes: int) -> float:
        """Seconds of a device's processor for one end of a message."""
        times = self._times[device]
        spent_s = times.convert_s(values, self.wire) + times.handle_s(nbytes + FRAME_HEADER_BYTES)
        label.busy[device] += spent_s
        return spent_s

    def _wires(self, source: int, device: int, nbytes: int) -> tuple[tuple[int, float], ...]:
        route = self._routes[source, device]
        assert route is not None  # devices have a link: a message without one is impossible
        spent_s = route.message_overhead_s + (nbytes + FRAME_HEADER_BYTES) / route.bandwidth_bytes_per_s
        return tuple((wire, spent_s) for wire in route.resources)

    def _sum(self, label: Label, cell: NodeCell, partial: Sequence[RegionTransfer], times: dict[int, float]) -> None:
        """Send partial sums, and wait for them where the sum is kept; ``times`` becomes when each owner has it."""
        [name] = self.facts.nodes[cell.place].outputs
        arrived = dict[int, float]()
        for source, device, nbytes, region in partial:
            arrival_s = self._sent(label, source, device, nbytes, region.num_values, times[source])
            arrived[device] = max(arrived.get(device, 0.0), arrival_s)
            label.tensors.end_run(source)
            label.tensors.receive(name, device, FLOAT_BYTES * region.num_values)
        times.clear()
        for device, region in cell.layout.pieces:
            label.tensors.assemble(name, device, FLOAT_BYTES * region.num_values, True)
            now = max(label.clock_s[device], arrived.get(device, 0.0))
            if self._has_costs:
                now += self._times[device].merge_s(len(cell.layout.spans) * region.num_values)
            label.began_s[device] = min(label.began_s[device], now)
            times[device] = label.clock_s[device] = now
