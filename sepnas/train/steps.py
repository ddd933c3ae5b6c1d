"""The loss of a batch, as a recipe has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.nets.separable import SeparableResNeXt
from sepnas.train.dropout import draw_outage
from sepnas.train.recipe import Recipe

Step = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""``(network, images_BCHW, labels, generator) -> loss``, a scalar to differentiate.

Images are augmented and normalised float32; labels are classes ``(B,)``, or of mixed images shares of them ``(B, K)``,
smoothed already. The generator lives on the CPU and derives from seed and epoch."""


def cross_entropy_step(recipe: Recipe) -> Step:
    """Cross entropy of what the network answers; with dropout, without some devices and messages."""

    def step(network: nn.Module, images_BCHW: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _loss(network(images_BCHW), labels, recipe)

    def degraded(network: nn.Module, images_BCHW: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, SeparableResNeXt)
        shares = recipe.device_dropout, recipe.message_dropout
        outage = draw_outage(network.architecture, len(images_BCHW), generator, *shares, images_BCHW.device)
        return _loss(network(images_BCHW, outage=outage), labels, recipe)

    return degraded if recipe.device_dropout or recipe.message_dropout else step


def _loss(logits_BK: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    smoothing = recipe.label_smoothing if labels.ndim == 1 else 0.0
    return functional.cross_entropy(logits_BK, labels, label_smoothing=smoothing)
