"""The recipe's optimizer and schedule, from torch and timm, with their state as plain tensors and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.train.muon import Muon, muon_weights
from sepnas.train.processes import Processes
from sepnas.train.recipe import Recipe
from sepnas.train.vision import import_timm

Rates: TypeAlias = Mapping[str, float]


class Optimization:
    """The optimizer and its schedule, updated after each step; an epoch has ``steps_per_epoch``.

    ``rates`` are factors of the learning rate by the names of parameters, 1 for the others; the recipe's ``norm_rate``
    multiplies them.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        processes: Processes | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._network, self._processes = network, processes or Processes()
        self._parameters = dict(network.named_parameters())
        self._optimizers = tuple(_optimizers(network, recipe, _factors(network, recipe, rates or {})))
        self._peaks = [_full_rate(each) for each in self._optimizers]
        self._schedules = [_schedule(each, recipe, steps_per_epoch) for each in self._optimizers]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; that of the first optimizer, of weights whose factor is 1."""
        return _full_rate(self._optimizers[0])

    def step(self, loss: Tensor) -> None:
        self._network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._processes.average_gradients(self._network)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, with names such as ``momentum_buffer/NAME``; parameters without gradient have none."""
        return {
            f"{key}/{name}": value
            for name, parameter in self._parameters.items()
            for optimizer in self._optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
            if value is not None
        }

    def numbers(self) -> dict[str, Any]:
        """The schedule's state, without values fixed by the recipe."""
        state = self._schedules[0].state_dict()
        found = {"learning_rate": self.learning_rate, "steps": state["last_epoch"], "calls": state["_step_count"]}
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        if any("factor" in group for group in groups):
            found["rates"] = [group["lr"] for group in groups]
        return found

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        owners = {x: each for each in self._optimizers for group in each.param_groups for x in group["params"]}
        for place, saved in tensors.items():
            key, _, name = place.partition("/")
            parameter = self._parameters.get(name)
            if key in _KEPT and parameter is not None:
                # in the parameter's memory layout, as torch creates it; step counters stay on the CPU
                like = torch.empty_like(saved if key == "step" else parameter.detach())
                owners[parameter].state[parameter][key] = like.copy_(saved)
        saved_rates, done = numbers.get("rates"), 0
        for optimizer, schedule, peak in zip(self._optimizers, self._schedules, self._peaks, strict=True):
            rate = numbers["learning_rate"] * peak / self._peaks[0]  # schedules are multiples of the peak
            count = len(optimizer.param_groups)
            rates = saved_rates[done : done + count] if saved_rates else [rate] * count
            done += count
            for group, each in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = each
            state = {"last_epoch": numbers["steps"], "_step_count": numbers["calls"], "_last_lr": rates}
            if isinstance(schedule, LambdaLR):
                state["lr_lambdas"] = [None] * len(rates)  # functions are not kept
            schedule.load_state_dict(state)


_KEPT = {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


def _full_rate(optimizer: Optimizer) -> float:
    """An optimizer's present learning rate of weights whose factor is 1."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get("factor", 1.0))


def _factors(network: nn.Module, recipe: Recipe, rates: Rates) -> Rates:
    """The factors of the learning rate by parameter: those of ``rates`` and ``norm_rate``; empty if there are none."""
    if recipe.norm_rate == 1:
        return rates
    spared = _spared(network)
    return {
        name: rates.get(name, 1.0) * (recipe.norm_rate if x.ndim <= 1 and name not in spared else 1.0)
        for name, x in network.named_parameters()
    }


def _optimizers(network: nn.Module, recipe: Recipe, factors: Rates) -> Iterator[Optimizer]:
    """The optimizers with their peak rates; each weight has one."""
    if recipe.optimizer != "muon":
        yield _optimizer(network, recipe, factors)
        return
    convolutions = muon_weights(network)
    if not convolutions:
        raise TrainingError(f"recipe {recipe.name!r}: the network has no convolution that Muon can train; use 'adamw'")
    named = dict(network.named_parameters())
    each: list[dict[str, Any]] = [
        {"params": [named[name]], "groups": count} | _scaled_rate(name, recipe.learning_rate, factors)
        for name, count in convolutions.items()
    ]
    yield Muon(each, recipe.learning_rate, recipe.momentum, recipe.nesterov)
    rest = {name: x for name, x in named.items() if name not in convolutions and x.requires_grad}
    yield torch.optim.AdamW(
        _groups_by_rate(rest, recipe, recipe.other_learning_rate, factors, _spared(network)),
        lr=recipe.other_learning_rate, weight_decay=recipe.weight_decay, betas=(recipe.momentum, 0.999),
    )  # fmt: skip


def _optimizer(network: nn.Module, recipe: Recipe, factors: Rates) -> Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw":
        settings["betas"] = (recipe.momentum, 0.999)
    else:
        settings |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    made: Optimizer
    if factors:
        named = dict(network.named_parameters())
        groups = _groups_by_rate(named, recipe, recipe.learning_rate, factors, _spared(network))
        made = import_timm("optim").create_optimizer_v2(groups, opt=recipe.optimizer, **settings)
        return made
    if recipe.decay_norms and recipe.optimizer != "sgdw":
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.SGD
        return kind(_groups(network), **settings)
    made = import_timm("optim").create_optimizer_v2(
        network, opt=recipe.optimizer, filter_bias_and_bn=not recipe.decay_norms, **settings
    )
    return made


def _spared(network: nn.Module) -> set[str]:
    """The parameters that never decay and have no ``norm_rate``, by name."""
    return network.no_weight_decay() if isinstance(network, SeparableNetwork) else set()


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay, split as in timm."""
    spared = _spared(network)
    groups: list[dict[str, Any]] = [{"params": [x for name, x in network.named_parameters() if name not in spared]}]
    if spared:
        groups.append({"params": [x for name, x in network.named_parameters() if name in spared], "weight_decay": 0.0})
    return groups


def _groups_by_rate(
    named: Mapping[str, nn.Parameter], recipe: Recipe, peak: float, factors: Rates, spared: set[str]
) -> list[dict[str, Any]]:
    """Parameter groups of one learning rate each, with and without weight decay; ``peak`` is that of the factor 1."""
    groups: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in named.items():
        decays = name not in spared and (recipe.decay_norms or parameter.ndim > 1)
        groups.setdefault((factors.get(name, 1.0), decays), []).append(name)
    found: list[dict[str, Any]] = [
        {"params": [named[name] for name in names]}
        | _scaled_rate(names[0], peak, factors)
        | ({} if decays else {"weight_decay": 0.0})
        for (_, decays), names in groups.items()
    ]
    return found or [{"params": []}]


def _scaled_rate(name: str, peak: float, factors: Rates) -> dict[str, float]:
    """A parameter group's own rate and its factor; nothing if no parameter of the network has one."""
    factor = factors.get(name, 1.0)
    return {"lr": factor * peak, "factor": factor} if factors else {}


def _schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle":
        # one more than the number of steps, because the schedule also moves after the last step
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=total + 1, cycle_momentum=False)
    if recipe.schedule == "cosine" and recipe.warmup:
        return LambdaLR(optimizer, partial(_risen_and_fallen, rising=recipe.warmup * total, total=total))
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total)
    milestones = [epoch * steps_per_epoch for epoch in recipe.milestones]
    return MultiStepLR(optimizer, milestones, gamma=recipe.milestone_factor)


def _risen_and_fallen(step: int, rising: float, total: int) -> float:
    """The share of the peak rate in a step: a linear rise, then half a cosine."""
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / (total - rising))) / 2
