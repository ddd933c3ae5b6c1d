"""Counts of a network and of its plan: parameters, multiply-accumulates, bytes, transfers, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sepnas.cost.memory import peak_memory_bytes
from sepnas.plan.device_totals import convolutions_of, macs_of_device
from sepnas.plan.liveness import devices_used, prune
from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.separable.lower import lower


@dataclass(frozen=True, kw_only=True)
class PlanCounts:
    """Counts of a plan for one image; lists have an entry for each device.

    All but ``payload_bytes_before_liveness`` leave out work and transfers that cannot affect the answer.
    ``macs_per_device`` are the multiply-accumulates that each device computes, ``macs_computed`` their sum; the stem
    counts on each device that computes it. ``payload_bytes`` are the bytes of tensors sent between devices;
    ``wire_bytes`` adds the headers. ``input_bytes`` are sent by the client, ``output_bytes`` to it; ``total_bytes`` are
    the payload of all messages: between devices, input and output. ``devices_used`` are the ranks whose work the answer
    needs. ``numbers_stored`` are all weights and statistics, shared ones once.
    """

    name: str
    devices: int
    numbers_stored: int
    macs_computed: int
    macs_per_device: list[int]
    payload_bytes: int
    payload_bytes_before_liveness: int
    wire_bytes: int
    input_bytes: int
    output_bytes: int
    total_bytes: int
    num_transfers: int
    segments: int
    devices_used: list[int]
    peak_memory_bytes: list[int]


@dataclass(frozen=True, kw_only=True)
class NetworkCounts(PlanCounts):
    """Counts of a network, and of its plan.

    ``parameters`` and ``macs`` are those of the network itself, as papers count them: every layer once, whatever the
    plan of this policy leaves out.
    """

    policy: str
    parameters: int
    macs: int


def count_network(architecture: Architecture) -> NetworkCounts:
    """Lower the architecture to its plan and count both."""
    per_device = [count_macs(architecture, rank) for rank in range(architecture.num_devices)]
    # Every device computes the same stem, which is one layer of the network: it counts once.
    repeated_stems = (architecture.num_devices - 1) * device_layers(architecture, 0)[0].macs
    return NetworkCounts(
        name=architecture.name,
        policy=architecture.policy.name,
        parameters=count_parameters(architecture),
        macs=sum(per_device) - repeated_stems,
        **_counts(build_plan(architecture), lower(architecture)),
    )


def count_plan(name: str, everything: Plan) -> PlanCounts:
    """Count the part of a plan that its outputs need."""
    return PlanCounts(name=name, **_counts(prune(everything), everything))


def _counts(plan: Plan, everything: Plan) -> dict[str, Any]:
    """Counts of a plan; ``everything`` is the plan before dead steps were dropped."""
    ranks = range(plan.num_devices)
    per_device = [macs_of_device(plan, rank) for rank in ranks]
    weights = {weight for segments in plan.segments for segment in segments.values() for weight in segment.weights}
    merged = sum(operator.num_weights for rank in ranks for operator in convolutions_of(plan, rank))
    return {
        "devices": plan.num_devices,
        "numbers_stored": sum(weight.region.num_values for weight in weights) + merged,
        "macs_computed": sum(per_device),
        "macs_per_device": per_device,
        "payload_bytes": plan.payload_bytes(),
        "payload_bytes_before_liveness": everything.payload_bytes(),
        "wire_bytes": plan.wire_bytes(),
        "input_bytes": plan.input_bytes(),
        "output_bytes": plan.output_bytes(),
        "total_bytes": plan.total_bytes(),
        "num_transfers": len(plan.transfers()),
        "segments": plan.num_segments(),
        "devices_used": list(devices_used(plan)),
        "peak_memory_bytes": [peak_memory_bytes(plan, rank) for rank in range(plan.num_devices)],
    }
