"""The loss of a batch under a recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import TrainingError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.train.compiled import compiled
from sepnas.train.distill import Teachers
from sepnas.train.dropout import draw_outage
from sepnas.train.recipe import Recipe

Step = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""``(network, images_BCHW, labels, generator) -> loss``, a scalar to differentiate.

Images are augmented, normalised float32. Labels are classes ``(B,)`` or, for mixed images, class shares ``(B, K)`` with
smoothing applied. The generator is on the CPU and derives from seed, epoch and step."""


def step_of(recipe: Recipe, teachers: Teachers | None = None, compile_it: bool = False) -> Step:
    """Cross entropy of the network's logits, with the recipe's dropout of devices and messages and the teachers' loss.

    Raises :class:`TrainingError` for a compiled step with dropout, because tensor sizes would differ in each step.
    """
    shares = recipe.device_dropout, recipe.message_dropout
    if compile_it and any(shares):
        raise TrainingError("steps with `device_dropout` or `message_dropout` are not compiled; train uncompiled")
    answer, answer_with_stages = (compiled(_answer), compiled(_with_stages)) if compile_it else (_answer, _with_stages)

    def plain(network: nn.Module, images_BCHW: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _loss(answer(network, images_BCHW), labels, recipe)

    def separable(network: nn.Module, images_BCHW: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, SeparableNetwork)
        outage = None
        if any(shares):
            outage = draw_outage(network.plan, len(images_BCHW), generator, *shares, images_BCHW.device)
        logits_BK, stages = answer_with_stages(network, images_BCHW, outage)
        loss = _loss(logits_BK, labels, recipe)
        return teachers.loss(loss, logits_BK, stages, images_BCHW) if teachers else loss

    return separable if teachers or any(shares) else plain


def _answer(network: nn.Module, images_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = network(images_BCHW)
    return logits_BK


def _with_stages(
    network: SeparableNetwork, images_BCHW: Tensor, outage: Outage | None
) -> tuple[Tensor, list[list[Tensor]]]:
    return network.with_stages(images_BCHW, outage=outage)


def _loss(logits_BK: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    smoothing = recipe.label_smoothing if labels.ndim == 1 else 0.0
    return functional.cross_entropy(logits_BK, labels, label_smoothing=smoothing)
