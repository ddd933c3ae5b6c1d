"""The live part of a transmission policy: its transfers without dead ones."""

from __future__ import annotations

from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.transfers import transfer_tag


def sent_policy(architecture: Architecture) -> TransmissionPolicy:
    """The architecture's policy without transfers that cannot affect the answer, and without points left empty."""
    live, num_devices = {message.tag for message in build_plan(architecture).transfers()}, architecture.num_devices
    points = []
    for point in architecture.policy.points:
        kept = tuple(t for t in point.transfers if transfer_tag(point.after, t, num_devices) in live)
        if kept:
            points.append(point.model_copy(update={"transfers": kept}))
    return architecture.policy.model_copy(update={"points": tuple(points)})
