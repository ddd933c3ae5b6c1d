"""The recipe's optimizer, schedule and loss, made of torch's own; and their state as plain tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from sepnas.train.checkpoint import MOMENTUM
from sepnas.train.recipe import Recipe


class Optimization:
    """SGD and its schedule, which moves after each step of ``steps_per_epoch``."""

    def __init__(self, network: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        self._parameters = dict(network.named_parameters())
        self._sgd = torch.optim.SGD(
            self._parameters.values(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
        self._schedule = _schedule(self._sgd, recipe, steps_per_epoch)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._sgd.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> None:
        self._sgd.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._sgd.step()
        self._schedule.step()

    def tensors(self) -> dict[str, Tensor]:
        """The momentum buffers; a parameter that never had a gradient has none."""
        state = {name: self._sgd.state[p].get("momentum_buffer") for name, p in self._parameters.items()}
        return {MOMENTUM + name: buffer for name, buffer in state.items() if buffer is not None}

    def numbers(self) -> dict[str, Any]:
        """Where the schedule stands; what the recipe fixes is left out."""
        state = self._schedule.state_dict()
        return {"learning_rate": self.learning_rate, "steps": state["last_epoch"], "calls": state["_step_count"]}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        for name, parameter in self._parameters.items():
            buffer = tensors.get(MOMENTUM + name)
            if buffer is not None:
                # in the parameter's own memory layout, as torch would have made it
                self._sgd.state[parameter]["momentum_buffer"] = torch.empty_like(parameter.detach()).copy_(buffer)
        rate = numbers["learning_rate"]
        self._sgd.param_groups[0]["lr"] = rate
        state = {"last_epoch": numbers["steps"], "_step_count": numbers["calls"], "_last_lr": [rate]}
        self._schedule.load_state_dict(state)


def _schedule(sgd: torch.optim.SGD, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle":
        # one more than there are, so that the schedule may be moved after the last step too
        return OneCycleLR(sgd, max_lr=recipe.learning_rate, total_steps=total + 1, cycle_momentum=False)
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(sgd, T_max=total)
    milestones = [epoch * steps_per_epoch for epoch in recipe.milestones]
    return MultiStepLR(sgd, milestones, gamma=recipe.milestone_factor)
