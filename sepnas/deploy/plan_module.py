"""A plan as a torch module: what its devices would answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepnas.nets.planned import PlannedNetwork, lookup_of, run_plan
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule


class PlanModule(nn.Module):
    """A plan with one input and one output, over the layers of a network; gradients are not kept."""

    def __init__(self, plan: Plan, network: PlannedNetwork) -> None:
        super().__init__()
        self._schedule, self._lookup = schedule(plan), lookup_of(network)

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, *input) -> (B, *output)``; the input holds normalised values."""
        [port] = self._schedule.plan.inputs
        [answer] = run_plan(self._schedule, self._lookup, {port.name: x_BCHW}).values()
        return answer
