"""A label: the estimated state of all devices after a part of the network, and the costs so far.

It has the fields of a simulation from which objectives are computed, so that one formula serves both. Estimates rank
candidates only; nothing that a search prints is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sepnas.assign.cells import NodeCell
from sepnas.assign.tensor_memory import TensorMemory
from sepnas.cost.routes import Network
from sepnas.plan.shapes import Region
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.spec.cluster import Cluster

_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Label:
    """Per device: when it has finished (``clock_s``), when it began, its busy time, bytes of weights and tensors.

    ``made`` has the cell of each tensor that is still read, and when each device has its part of it. ``received`` has
    the regions that devices were sent and may read again, with their arrivals. ``wires_s`` is the time for which each
    wire is used. ``chosen`` are the candidates that were taken, by their numbers in each unit.
    """

    cluster: Cluster
    memory_bytes: Sequence[float]
    network: Network
    clock_s: list[float]
    began_s: list[float]
    busy: list[float]
    weights: list[int]
    tensors: TensorMemory
    made: dict[str, tuple[NodeCell, dict[int, float]]]
    received: dict[tuple[str, int, Region], float]
    payload_bytes: int = 0
    messages: int = 0
    client_bytes: int = 0
    sent_bytes: list[int] = field(default_factory=list)
    wires_s: dict[int, float] = field(default_factory=dict)
    answered_s: float = 0.0
    chosen: tuple[int, ...] = ()

    @staticmethod
    def start(cluster: Cluster, bounded: bool = True) -> Label:
        """Before the first operator; unless ``bounded``, memory has no limit."""
        count = cluster.num_devices
        zeros, memory_bytes = [0.0] * count, [device.memory_bytes if bounded else _NEVER for device in cluster.devices]
        return Label(
            cluster, memory_bytes, Network(cluster), zeros[:], [_NEVER] * count, zeros[:], [0] * count,
            TensorMemory(count), {}, {}, sent_bytes=[0] * count,
        )  # fmt: skip

    def copy(self) -> Label:
        return Label(
            self.cluster, self.memory_bytes, self.network.copy(), self.clock_s[:], self.began_s[:], self.busy[:],
            self.weights[:], self.tensors.copy(), dict(self.made), dict(self.received), self.payload_bytes,
            self.messages, self.client_bytes, self.sent_bytes[:], dict(self.wires_s), self.answered_s, self.chosen,
        )  # fmt: skip

    @property
    def makespan_s(self) -> float:
        return max(self.clock_s)

    @property
    def latency_s(self) -> float:
        return max(self.answered_s, self.makespan_s)

    @property
    def wire_bytes(self) -> int:
        return self.payload_bytes + self.messages * FRAME_HEADER_BYTES

    @property
    def total_bytes(self) -> int:
        return self.payload_bytes + self.client_bytes

    @property
    def busy_s(self) -> tuple[float, ...]:
        return tuple(self.busy)

    @property
    def peak_memory_bytes(self) -> tuple[int, ...]:
        return tuple(stored + values for stored, values in zip(self.weights, self.tensors.most, strict=True))

    @property
    def energy_j(self) -> tuple[float, ...]:
        """As the simulator's."""
        found = []
        for device, busy_s, nbytes in zip(self.cluster.devices, self.busy, self.sent_bytes, strict=True):
            power = device.power
            used = power.compute_w * busy_s + power.energy_per_byte_j * nbytes
            found.append(power.idle_w * self.makespan_s + used)
        return tuple(found)

    @property
    def period_s(self) -> float:
        """The longest time that a request holds a device or a wire.

        A device works on one request at a time, so that its waits count.
        """
        spans = (end - start for start, end in zip(self.began_s, self.clock_s, strict=True) if start < _NEVER)
        return max((*spans, *self.wires_s.values()), default=0.0)

    @property
    def throughput_per_s(self) -> float:
        return 1 / self.period_s if self.period_s else _NEVER

    @property
    def used(self) -> frozenset[int]:
        """The devices with work so far."""
        return frozenset(rank for rank, began_s in enumerate(self.began_s) if began_s < _NEVER)

    @property
    def key(self) -> tuple[tuple[str, int], ...]:
        """The layouts of the tensors that are still read: labels with equal keys go on in the same ways."""
        return tuple(sorted((name, cell.number) for name, (cell, _) in self.made.items()))
