"""Mixup and CutMix of a batch, by timm, drawn from a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepnas.train.recipe import Recipe
from sepnas.train.vision import import_timm


class Mixing:
    """Mixes each image with the one at the mirrored position of the batch; labels become class shares.

    One draw per batch selects the amount and the method. In an odd batch, the last image is unchanged.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self._timm = import_timm("data.mixup")
        self._num_classes, self._smoothing = num_classes, recipe.label_smoothing
        self._mixup: Any = self._timm.Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images, mixed in place, and their class shares ``(B, K)``, with the recipe's label smoothing."""
        even = len(images_BCHW) // 2 * 2
        before = np.random.get_state()  # timm draws from numpy's global generator
        np.random.seed(int(torch.randint(2**32, (), generator=generator)))
        try:
            targets = [self._mixup(images_BCHW[:even], labels_B[:even])[1]] if even else []
        finally:
            np.random.set_state(before)
        if even < len(images_BCHW):
            targets.append(self._timm.mixup_target(labels_B[even:], self._num_classes, smoothing=self._smoothing))
        return images_BCHW, torch.cat(targets)
