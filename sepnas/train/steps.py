"""The loss of a batch under a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import TrainingError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.trainable import TrainableGraph
from sepnas.train.compiled import compiled
from sepnas.train.distill import Teachers
from sepnas.train.dropout import draw_outage
from sepnas.train.feature_gap import FeatureGap
from sepnas.train.kept_answers import divergence_from
from sepnas.train.recipe import Distillation, Recipe

Step = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""``(network, images_BCHW, labels, generator) -> loss``, a scalar to differentiate.

Images are augmented, normalised float32. Labels are classes ``(B,)`` or, for mixed images, class shares ``(B, K)`` with
smoothing applied. The generator is on the CPU and derives from seed, epoch and step."""


class TaughtStep(Protocol):
    """As :data:`Step`, also with kept answers of teachers, ``(T, B, K)``.

    ``whole_BCHW`` are the images at full size, which teachers see, if the network sees smaller ones.
    """

    def __call__(
        self,
        network: nn.Module,
        images_BCHW: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        taught_TBK: Tensor | None = None,
        whole_BCHW: Tensor | None = None,
    ) -> Tensor: ...


def step_of(
    recipe: Recipe, teachers: Teachers | None = None, compile_it: bool = False, features: FeatureGap | None = None
) -> TaughtStep:
    """Cross entropy of the network's logits, with the recipe's dropout of devices and messages and the teachers' loss.

    ``teachers`` answer each batch anew; other teachers' answers were kept; ``features`` compares those of graphs.

    Raises :class:`TrainingError` for a compiled step with dropout, because tensor sizes would differ in each step, and
    with ``first_size``, because they would differ from epoch to epoch.
    """
    shares = recipe.device_dropout, recipe.message_dropout
    if compile_it and any(shares):
        raise TrainingError("steps with `device_dropout` or `message_dropout` are not compiled; train uncompiled")
    if compile_it and recipe.first_size < 1:
        raise TrainingError("steps with `first_size` are not compiled; train uncompiled")
    answer, answer_with_stages = (compiled(_answer), compiled(_with_stages)) if compile_it else (_answer, _with_stages)

    def plain(
        network: nn.Module,
        images_BCHW: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        taught_TBK: Tensor | None = None,
        whole_BCHW: Tensor | None = None,
    ) -> Tensor:
        if features is None:
            logits_BK = answer(network, images_BCHW)
            return _with_kept(_loss(logits_BK, labels, recipe), logits_BK, taught_TBK, recipe)
        assert isinstance(network, TrainableGraph)
        logits_BK, gap = features.answer(network, images_BCHW)
        loss = _with_kept(_loss(logits_BK, labels, recipe), logits_BK, taught_TBK, recipe)
        return loss + distillation_of(recipe).features * gap

    def separable(
        network: nn.Module,
        images_BCHW: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        taught_TBK: Tensor | None = None,
        whole_BCHW: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(network, SeparableNetwork)
        outage = None
        if any(shares):
            outage = draw_outage(network.plan, len(images_BCHW), generator, *shares, images_BCHW.device)
        logits_BK, stages = answer_with_stages(network, images_BCHW, outage)
        own = _loss(logits_BK, labels, recipe)
        kept = _with_kept(own, logits_BK, taught_TBK, recipe)
        if teachers is None:
            return kept
        seen_BCHW = images_BCHW if whole_BCHW is None else whole_BCHW
        live, count = teachers.loss(own, logits_BK, stages, seen_BCHW), len(teachers.networks)
        others = 0 if taught_TBK is None else len(taught_TBK)
        return (count * live + others * kept) / (count + others)

    return separable if teachers or any(shares) else plain


def distillation_of(recipe: Recipe) -> Distillation:
    """The recipe's settings for training with teachers, or the usual ones."""
    return recipe.distillation or Distillation()


def _with_kept(own: Tensor, logits_BK: Tensor, taught_TBK: Tensor | None, recipe: Recipe) -> Tensor:
    """The loss from the labels, combined with the divergence from kept answers."""
    if taught_TBK is None:
        return own
    settings = distillation_of(recipe)
    return (1 - settings.weight) * own + settings.weight * divergence_from(logits_BK, taught_TBK, settings.temperature)


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
