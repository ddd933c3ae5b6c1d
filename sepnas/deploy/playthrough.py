"""What a plan's devices would answer, and what their segments take: the plan executed in one process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sepnas.nets.planned import PlannedNetwork, Watch, lookup_of, run_plan
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.schedule import schedule

__all__ = ["PlanModule", "PlannedNetwork", "plan_outputs", "segment_inputs"]


class PlanModule(nn.Module):
    """A plan as a module with one input and one output: what its devices would answer. Gradients are not kept."""

    def __init__(self, plan: Plan, network: PlannedNetwork) -> None:
        super().__init__()
        self._plan, self._network = plan, network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        [port] = self._plan.inputs
        [answer] = plan_outputs(self._plan, self._network, {port.name: x_BCHW}).values()
        return answer


@torch.no_grad()
def plan_outputs(
    plan: Plan, network: PlannedNetwork, images: Mapping[str, Tensor], watch: Watch | None = None
) -> dict[str, Tensor]:
    """The outputs ``(B, *shape)`` of the plan by name; ``images`` are the client's inputs, by name."""
    return run_plan(schedule(plan), lookup_of(network), images, watch=watch)


def segment_inputs(
    plan: Plan, network: PlannedNetwork, images: Mapping[str, Tensor], rank: int
) -> dict[str, dict[str, Tensor]]:
    """The inputs ``(B, *shape)`` of each segment of device ``rank``, by name; ``images`` are the client's inputs."""
    taken: dict[str, dict[str, Tensor]] = {}

    def watch(device: int, segment: Segment, layer: str, inputs: tuple[Tensor, ...]) -> None:
        if device == rank and segment.name not in taken:
            taken[segment.name] = dict(zip(segment.inputs, inputs, strict=True))

    plan_outputs(plan, network, images, watch)
    return taken
