"""Counts of a network and of its plan: parameters, multiply-accumulates, bytes, transfers, memory."""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.cost.memory import peak_memory_bytes
from sepnas.plan.liveness import devices_used
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.separable.lower import lower


@dataclass(frozen=True)
class NetworkFacts:
    """Counts for one image; lists have an entry for each device.

    ``payload_bytes`` are the tensors that cross between devices: transfers that cannot reach the answer are dropped
    first, and ``payload_bytes_before_liveness`` counts them too. ``wire_bytes`` adds the headers. ``devices_used`` are
    the ranks that do any work that the answer needs.
    """

    name: str
    devices: int
    policy: str
    parameters: int
    macs: int
    macs_per_device: list[int]
    payload_bytes: int
    payload_bytes_before_liveness: int
    wire_bytes: int
    num_transfers: int
    segments: int
    devices_used: list[int]
    peak_memory_bytes: list[int]


def count_network(architecture: Architecture) -> NetworkFacts:
    """Lower the architecture to its plan and count both."""
    everything, plan = lower(architecture), build_plan(architecture)
    ranks = range(architecture.num_devices)
    per_device = [count_macs(architecture, rank) for rank in ranks]
    # The stem is one layer of the network that every device computes: it counts once.
    repeated_stems = (architecture.num_devices - 1) * device_layers(architecture, 0)[0].macs
    return NetworkFacts(
        name=architecture.name,
        devices=architecture.num_devices,
        policy=architecture.policy.name,
        parameters=count_parameters(architecture),
        macs=sum(per_device) - repeated_stems,
        macs_per_device=per_device,
        payload_bytes=plan.payload_bytes(),
        payload_bytes_before_liveness=everything.payload_bytes(),
        wire_bytes=plan.wire_bytes(),
        num_transfers=len(plan.transfers()),
        segments=plan.num_segments(),
        devices_used=list(devices_used(plan)),
        peak_memory_bytes=[peak_memory_bytes(plan, rank) for rank in ranks],
    )
