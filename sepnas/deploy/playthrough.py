"""What the segments of a plan take: the plan executed in one process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sepnas.nets.planned import PlannedNetwork, Watcher, lookup_of, run_plan
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.schedule import schedule


class _Taken(Watcher):
    """Keeps the inputs of each segment of one device, by name."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.found: dict[str, dict[str, Tensor]] = {}

    def layer(self, rank: int, segment: Segment, layer: str, inputs: tuple[Tensor, ...]) -> None:
        if rank == self.rank and segment.name not in self.found:
            self.found[segment.name] = dict(zip(segment.inputs, inputs, strict=True))


@torch.no_grad()
def segment_inputs(
    plan: Plan, network: PlannedNetwork, images: Mapping[str, Tensor], rank: int
) -> dict[str, dict[str, Tensor]]:
    """The inputs ``(B, *shape)`` of each segment of device ``rank``, by name; ``images`` are the client's inputs."""
    taken = _Taken(rank)
    run_plan(schedule(plan), lookup_of(network), images, watcher=taken)
    return taken.found
