"""The live part of a transmission policy: its transfers without dead ones."""

from __future__ import annotations

from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy


def sent_policy(architecture: Architecture) -> TransmissionPolicy:
    """The architecture's policy without transfers that cannot affect the answer, and without points left empty."""
    live = {(m.tensor, m.source, m.destination) for m in build_plan(architecture).transfers()}
    points = []
    for point in architecture.policy.points:
        kept = tuple(t for t in point.transfers if (f"b{point.after}", t.source, t.destination) in live)
        if kept:
            points.append(point.model_copy(update={"transfers": kept}))
    return architecture.policy.model_copy(update={"points": tuple(points)})
