"""What a deployment's manifest tells of its plans, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.deployment.manifest import Manifest, device_folder
from sepnas.deployment.plans import PlanPorts, overlay_file
from sepnas.plan.serial import message_from_data
from sepnas.plan.steps import CLIENT


@dataclass(frozen=True)
class PlanSummary:
    """A plan of a deployment.

    ``payload_bytes`` are the bytes of tensors that devices send each other for one sample, in ``num_transfers``
    messages. The client sends ``input_bytes`` and gets ``output_bytes``; all messages have ``total_bytes``.
    ``devices_used`` take part. ``own_bytes`` are those of tensors that no other plan uses, over all devices.
    """

    name: str
    is_default: bool
    payload_bytes: int
    input_bytes: int
    output_bytes: int
    total_bytes: int
    num_transfers: int
    devices_used: list[int]
    own_bytes: int


def plans_of(manifest: Manifest) -> list[PlanSummary]:
    """The plans of a deployment, the default one first."""
    return [_summary(manifest, name, plan) for name, plan in manifest.chosen(None).items()]


def _summary(manifest: Manifest, name: str, plan: PlanPorts) -> PlanSummary:
    messages = [message_from_data(each) for each in plan.messages]
    return PlanSummary(
        name=name,
        is_default=name == manifest.default_plan,
        payload_bytes=plan.payload_bytes,
        input_bytes=sum(each.payload_bytes() for each in messages if each.source == CLIENT),
        output_bytes=sum(each.payload_bytes() for each in messages if each.destination == CLIENT),
        total_bytes=sum(each.payload_bytes() for each in messages),
        num_transfers=sum(CLIENT not in (each.source, each.destination) for each in messages),
        devices_used=list(plan.working),
        own_bytes=_own_bytes(manifest, name),
    )


def _own_bytes(manifest: Manifest, plan: str) -> int:
    files = (f"{device_folder(rank)}/{overlay_file(plan)}" for rank in range(manifest.num_devices))
    return sum(manifest.files[file].bytes for file in files if file in manifest.files)
