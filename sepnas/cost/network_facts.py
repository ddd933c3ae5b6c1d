"""Counts of a network and of its plan: parameters, multiply-accumulates, bytes, transfers, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sepnas.cost.memory import peak_memory_bytes
from sepnas.plan.liveness import devices_used, prune
from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.separable.lower import lower


@dataclass(frozen=True)
class NetworkFacts:
    """Counts for one image; lists have an entry for each device.

    ``payload_bytes`` are the bytes of tensors sent between devices, without transfers that cannot affect the answer;
    ``payload_bytes_before_liveness`` includes those. ``wire_bytes`` adds the headers. ``devices_used`` are the ranks
    whose work the answer needs.
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
    # Every device computes the same stem, which is one layer of the network: it counts once.
    repeated_stems = (architecture.num_devices - 1) * device_layers(architecture, 0)[0].macs
    return NetworkFacts(
        name=architecture.name,
        devices=architecture.num_devices,
        policy=architecture.policy.name,
        parameters=count_parameters(architecture),
        macs=sum(per_device) - repeated_stems,
        macs_per_device=per_device,
        **_plan_counts(plan, everything),
    )


@dataclass(frozen=True)
class PlanFacts:
    """Counts of a plan that may come from a file; fields shared with :class:`NetworkFacts` mean the same.

    ``macs`` is the sum over devices, ``numbers_stored`` all weights and statistics, shared ones counted once.
    """

    name: str
    devices: int
    numbers_stored: int
    macs: int
    macs_per_device: list[int]
    payload_bytes: int
    payload_bytes_before_liveness: int
    wire_bytes: int
    num_transfers: int
    segments: int
    devices_used: list[int]
    peak_memory_bytes: list[int]


def count_plan(name: str, everything: Plan) -> PlanFacts:
    """Count the part of a plan that its outputs need."""
    plan = prune(everything)
    per_device = [sum(segment.flops for segment in segments.values()) // 2 for segments in plan.segments]
    weights = {weight for segments in plan.segments for segment in segments.values() for weight in segment.weights}
    return PlanFacts(
        name=name,
        devices=plan.num_devices,
        numbers_stored=sum(weight.region.num_values for weight in weights),
        macs=sum(per_device),
        macs_per_device=per_device,
        **_plan_counts(plan, everything),
    )


def _plan_counts(plan: Plan, everything: Plan) -> dict[str, Any]:
    """Bytes sent and numbers stored by a plan; ``everything`` is the plan before dead steps were dropped."""
    return {
        "payload_bytes": plan.payload_bytes(),
        "payload_bytes_before_liveness": everything.payload_bytes(),
        "wire_bytes": plan.wire_bytes(),
        "num_transfers": len(plan.transfers()),
        "segments": plan.num_segments(),
        "devices_used": list(devices_used(plan)),
        "peak_memory_bytes": [peak_memory_bytes(plan, rank) for rank in range(plan.num_devices)],
    }
